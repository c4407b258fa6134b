from __future__ import annotations

from collections import Counter

import pytest

from router.simulate.service import End, Service
from tests.simulate.scene import MACHINE, model

A, B = model("a"), model("b")


def run(service: Service) -> list[tuple[float, End]]:
    found = []
    while (at := service.next_end()) < float("inf"):
        found += [(round(at, 6), end) for end in service.advance(at)]
    return found


def test_one_request_is_read_and_then_answered() -> None:
    service = Service(MACHINE)
    service.begin(1, A, prompt=1000, output=100)
    assert run(service) == [(1.0, (1, False)), (2.0, (1, True))]
    assert service.busy_seconds == pytest.approx(2.0)


def test_two_answers_of_one_model_gain_from_each_other() -> None:
    service = Service(MACHINE)
    for ticket in (1, 2):
        service.begin(ticket, A, prompt=500, output=100)
    # Prompts share: 1000 tokens at 1000/s. Answers: each at 100/sqrt(2).
    assert run(service)[-1] == (pytest.approx(1 + 2**0.5), (2, True))


def test_two_models_share_the_device() -> None:
    service = Service(MACHINE)
    service.begin(1, A, prompt=1000, output=100)
    service.begin(2, B, prompt=1000, output=100)
    assert run(service)[-1][0] == pytest.approx(4.0)


def test_a_latecomer_slows_the_rest_only_from_then_on() -> None:
    service = Service(MACHINE)
    service.begin(1, A, prompt=1000, output=0)
    assert service.advance(0.5) == []
    service.begin(2, A, prompt=1000, output=0)
    assert run(service) == [(1.5, (1, True)), (2.0, (2, True))]


def test_nothing_is_lost_and_work_is_conserved() -> None:
    service = Service(MACHINE)
    for ticket in range(40):
        service.begin(ticket, (A, B)[ticket % 2], prompt=1 + 37 * ticket, output=ticket % 5)
    ends = Counter(end for _, end in run(service))
    assert {ticket for ticket, complete in ends if complete} == set(range(40))
    assert set(ends.values()) == {1}


def test_an_idle_device_has_nothing_to_end_and_is_not_busy() -> None:
    service = Service(MACHINE)
    assert service.next_end() == float("inf")
    assert service.advance(100.0) == []
    assert service.busy_seconds == 0.0
