"""Money, breaker and counters each hear once how a try ended."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from router.cloud.attempt import Attempt, outcome
from router.cloud.breaker import Breaker, Pass, State
from router.cloud.calls import CloudAnswer
from router.cloud.events import Facts
from router.cloud.line import Progress
from router.cloud.report import Report
from router.cloud.spend import Charge
from router.domain import errors
from router.domain.errors import UpstreamBroken, UpstreamRefused, UpstreamUnavailable
from router.domain.generation import Usage
from router.domain.upstreams import Upstream
from router.telemetry import Metrics
from tests.cloud.scene import PRICE

BIG = Upstream("big", "https://x/v1", "m", price=PRICE)


class Try:
    """One attempt whose breaker opens at the first failure, so that one can see what it heard."""

    def __init__(self, sent: bool = True) -> None:
        self.metrics = Metrics()
        self.breaker = Breaker(failures=1)
        given = self.breaker.admit(0.0)
        assert isinstance(given, Pass)
        self.settled: list[int] = []
        report = Report(self.metrics, lambda: ())
        charge = Charge(500, self.settled.append)
        answer = CloudAnswer(200, "big", 500)
        progress = Progress(sent_at=1.0 if sent else None)
        self.it = Attempt(BIG, self.breaker, given, charge, report, lambda: 0.0, answer, progress)

    @property
    def failed(self) -> bool:
        return self.breaker.state(0.0) is State.OPEN

    def counted(self) -> dict[str, float]:
        samples = next(iter(self.metrics.cloud_requests.collect())).samples
        return {sample.labels["outcome"]: sample.value for sample in samples}


def unavailable(reason: str) -> UpstreamUnavailable:
    return UpstreamUnavailable("x", "big", reason)


async def words(*events: bytes, error: Exception | None = None) -> AsyncIterator[bytes]:
    for event in events:
        yield event
    if error is not None:
        raise error


def test_a_complete_answer_costs_what_it_used() -> None:
    tried = Try()
    tried.it.progress.tally.note(Facts(Usage(10, 2)))
    tried.it.begun()
    tried.it.closed()
    assert (tried.settled, tried.counted(), tried.it.answer.cost) == ([30], {"ok": 1}, 30)


def test_an_answer_whose_usage_nobody_told_costs_the_worst() -> None:
    tried = Try()
    tried.it.begun()
    assert tried.settled == [500]


async def test_a_usage_told_in_the_middle_is_not_the_bill_of_who_left() -> None:
    tried = Try()
    tried.it.answer.events = words(b"a")
    tried.it.progress.tally.note(Facts(Usage(10, 0)))
    tried.it.begun()
    tried.it.closed()
    assert tried.settled == [500]


async def test_a_stream_is_over_at_its_end() -> None:
    tried = Try()
    tried.it.answer.events = words(b"a", b"b")
    tried.it.begun()
    assert tried.settled == []
    assert [event async for event in tried.it.followed(tried.it.answer.events)] == [b"a", b"b"]
    assert (tried.settled, tried.counted(), tried.failed) == ([500], {"ok": 1}, False)


async def test_a_stream_that_breaks_is_a_failure_and_not_also_a_client_that_left() -> None:
    tried = Try()
    tried.it.answer.events = words(b"a", error=UpstreamBroken("x", "big"))
    tried.it.begun()
    with pytest.raises(UpstreamBroken):
        [event async for event in tried.it.followed(tried.it.answer.events)]
    tried.it.closed()
    assert (tried.settled, tried.counted(), tried.failed) == ([500], {"broken": 1}, True)


def test_a_client_that_left_says_nothing_of_the_upstream() -> None:
    tried = Try()
    tried.it.closed()
    assert (tried.settled, tried.counted(), tried.failed) == ([500], {"left": 1}, False)


def test_what_never_left_costs_nothing() -> None:
    tried = Try(sent=False)
    tried.it.failed(unavailable("timeout"))
    assert (tried.settled, tried.failed) == ([0], True)


@pytest.mark.parametrize("reason", ["status", "rate_limited", "setup", "connect", "tls"])
def test_what_the_upstream_did_not_take_costs_nothing(reason: str) -> None:
    tried = Try()
    tried.it.failed(unavailable(reason))
    assert (tried.settled, tried.failed) == ([0], True)


@pytest.mark.parametrize("reason", ["timeout", "cut", "protocol", "too_large"])
def test_what_it_may_have_generated_costs_the_worst(reason: str) -> None:
    tried = Try()
    tried.it.failed(unavailable(reason))
    assert (tried.settled, tried.failed) == ([500], True)


@pytest.mark.parametrize("reason", ["busy", "address"])
def test_what_is_ours_is_not_held_against_it(reason: str) -> None:
    tried = Try(sent=False)
    tried.it.failed(unavailable(reason))
    assert not tried.failed


def test_a_refused_request_is_free_and_a_sign_of_health() -> None:
    tried = Try()
    tried.it.failed(UpstreamRefused("x", "big", 400, "t", None, None))
    assert (tried.settled, tried.counted(), tried.failed) == ([0], {"refused": 1}, False)


def test_every_way_to_fail_has_a_name_for_the_counter() -> None:
    kinds = [kind for kind in errors.UpstreamError.__subclasses__() if kind is not UpstreamUnavailable]
    made = [kind.__new__(kind) for kind in kinds]
    assert all(outcome(error) for error in made)
    assert outcome(unavailable("open")) == "open"


def test_a_free_upstream_costs_nothing_though_it_tells_its_usage() -> None:
    tried = Try()
    tried.it.upstream = msgspec.structs.replace(BIG, price=None)
    tried.it.progress.tally.note(Facts(Usage(10, 2)))
    tried.it.begun()
    assert tried.settled == [0]


@pytest.mark.parametrize(
    "error", [None, unavailable("status"), unavailable("cut"), UpstreamBroken("x", "big")]
)
def test_an_end_that_is_none_costs_the_most_of_what_was_reserved_seen_and_told(
    error: errors.UpstreamError | None,
) -> None:
    seen, told = Facts(choices=1, words=6400, spoke=(0,)), Facts(Usage(10, 130_000))
    for facts, cost in ([seen, 500 + 60 * 10], [told, 10 + 130_000 * 10]):
        tried = Try()
        tried.it.progress.tally.limit = 40
        tried.it.progress.tally.note(facts)
        tried.it.answer.events = words()
        tried.it.failed(error) if error else tried.it.closed()
        assert tried.settled == [cost]


def test_a_usage_that_is_less_than_what_passed_is_not_believed() -> None:
    tried = Try()
    tried.it.progress.tally.note(Facts(Usage(10, 2), "stop", choices=1, words=6400, spoke=(0,), ended=(0,)))
    tried.it.begun()
    assert tried.settled == [10 + 100 * 10]
