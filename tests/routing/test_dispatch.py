"""Lease, ask, release: one unseen retry, and nothing kept whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator

import msgspec
import pytest

from router.domain.errors import InvalidRequest, LeaseTimeout, LoadFailed, RegistryInvalid, WorkerCrashed
from router.domain.generation import (
    Delta,
    EmbeddingRequest,
    FinishReason,
    GenerationRequest,
    TextPrompt,
    Usage,
)
from router.domain.models import LocalModel
from router.routing import dispatch
from router.routing.dispatch import Dispatcher
from router.telemetry import Metrics
from tests.scene import A, Scene, scene

REQUEST = GenerationRequest("g1", TextPrompt("Hi"))


@pytest.fixture
async def house() -> AsyncIterator[Scene]:
    async with scene() as running:
        yield running


def leases(house: Scene) -> int:
    return sum(i.leases for i in house.house.residency.view().instances)


async def words(house: Scene) -> tuple[list[str], int]:
    async with house.house.dispatcher.generate(A, REQUEST) as answer:
        return [delta.text async for delta in answer.deltas], answer.attempts


async def test_the_first_delta_is_there_before_the_answer_is(house: Scene) -> None:
    house.launcher.scripts[A.name] = [["Hello", asyncio.Event()]]
    async with house.house.dispatcher.generate(A, REQUEST) as answer:
        assert answer.served_by.startswith(A.name)
        assert (answer.model, answer.attempts) == (A, 1)
        assert answer.queue_ms >= 0
        assert (await anext(aiter(answer.deltas))).text == "Hello"
        assert leases(house) == 1
    assert leases(house) == 0
    assert house.launcher.worker().running == 0


async def test_a_crash_before_the_first_word_is_retried_once_with_a_new_worker(house: Scene) -> None:
    house.launcher.scripts[A.name] = [[WorkerCrashed("gone")], ["Hello"]]
    assert await words(house) == (["Hello", ""], 2)
    assert len(house.launcher.workers[A.name]) == 2
    assert leases(house) == 0


async def test_a_second_crash_is_the_answer(house: Scene) -> None:
    house.launcher.scripts[A.name] = [[WorkerCrashed("gone")]]
    with pytest.raises(WorkerCrashed):
        await words(house)
    assert len(house.launcher.workers[A.name]) == 2


async def test_what_a_worker_hung_over_is_not_tried_on_the_next_one(house: Scene) -> None:
    house.launcher.scripts[A.name] = [[WorkerCrashed("hung", repeatable=False)], ["Hello"]]
    with pytest.raises(WorkerCrashed, match="hung"):
        await words(house)
    assert len(house.launcher.workers[A.name]) == 1
    assert leases(house) == 0


async def test_a_crash_after_a_word_is_not_retried(house: Scene) -> None:
    house.launcher.scripts[A.name] = [["Hello", WorkerCrashed("gone")]]
    with pytest.raises(WorkerCrashed):
        await words(house)
    assert len(house.launcher.workers[A.name]) == 1
    assert leases(house) == 0


async def test_a_worker_that_fails_and_lives_is_tried_again_after_a_short_wait(
    house: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "GONE_SECONDS", 0.0)

    class EngineFailed(WorkerCrashed):
        pass

    house.launcher.scripts[A.name] = [["Hello"]]
    await words(house)
    worker = house.launcher.worker()
    real, calls = worker.generate, []

    async def failing(request: GenerationRequest, *_: object) -> AsyncIterator[Delta]:
        calls.append(request)
        if len(calls) == 1:
            raise EngineFailed("decode failed")
        async for delta in real(request):
            yield delta

    worker.generate = failing  # type: ignore[method-assign,assignment]
    assert await words(house) == (["Hello", ""], 2)
    assert len(house.launcher.workers[A.name]) == 1


class Dying:
    """Gives no lease: who waits for one finds its worker dead."""

    def __init__(self) -> None:
        self.asked: list[tuple[float | None, int | None]] = []

    @contextlib.asynccontextmanager
    async def lease(self, model: object, wait: float | None, priority: int | None) -> AsyncIterator[None]:
        self.asked.append((wait, priority))
        raise WorkerCrashed("gone")
        yield


@pytest.mark.parametrize(("wait", "left"), [(30.0, 25.0), (2.0, 0.0), (None, None)])
async def test_a_second_attempt_has_the_priority_and_what_is_left_of_the_wait(
    wait: float | None, left: float | None
) -> None:
    dying, clock = Dying(), itertools.count(0.0, 5.0)  # five seconds between any two looks
    dispatcher = Dispatcher(dying, Metrics(), lambda: next(clock))  # type: ignore[arg-type]
    with pytest.raises(WorkerCrashed):
        await dispatcher.embed(A, EmbeddingRequest("e1", ("x",)), wait, -1)
    with pytest.raises(WorkerCrashed):
        async with dispatcher.generate(A, REQUEST, wait, -1):
            pass
    assert dying.asked == [(wait, -1), (left, -1)] * 2


async def test_who_asked_hears_when_it_waits_and_when_its_prompt_is_read(house: Scene) -> None:
    house.launcher.scripts[A.name] = [[WorkerCrashed("gone")], ["Hello"]]
    told: list[float | None] = []
    async with house.house.dispatcher.generate(A, REQUEST, on_prompt=told.append):
        pass
    assert told == [None, 0.0, None, 0.0]


@pytest.mark.parametrize("error", [InvalidRequest("no"), LoadFailed("no")])
async def test_other_errors_are_passed_on_at_once(house: Scene, error: InvalidRequest | LoadFailed) -> None:
    house.launcher.scripts[A.name] = [[error]]
    with pytest.raises(type(error)):
        await words(house)
    assert leases(house) == 0


async def test_an_answer_without_an_end_is_an_error_and_never_a_short_answer(house: Scene) -> None:
    await words(house)
    worker = house.launcher.worker()

    async def cut(request: GenerationRequest, *_: object) -> AsyncIterator[Delta]:
        yield Delta("Hel", 1)

    worker.generate = cut  # type: ignore[method-assign,assignment]
    with pytest.raises(WorkerCrashed, match="middle"):
        await words(house)


async def test_an_answer_without_a_word_is_a_crash(house: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "GONE_SECONDS", 0.0)
    await words(house)

    async def silent(request: GenerationRequest, *_: object) -> AsyncIterator[Delta]:
        return
        yield

    house.launcher.worker().generate = silent  # type: ignore[method-assign,assignment]
    with pytest.raises(WorkerCrashed, match="without a word"):
        await words(house)


async def test_a_wait_can_be_bounded(house: Scene) -> None:
    house.launcher.gates[A.name] = asyncio.Event()
    with pytest.raises(LeaseTimeout):
        async with house.house.dispatcher.generate(A, REQUEST, wait=0.01):
            pass
    assert house.house.residency.view().waiting == {}


async def test_tokens_are_counted_also_when_the_client_leaves(house: Scene) -> None:
    house.launcher.scripts[A.name] = [["a", "b", "c"], ["a", "b", asyncio.Event()]]
    await words(house)
    assert house.total("router_tokens_total", model=A.name, direction="prompt") == 7
    assert house.total("router_tokens_total", model=A.name, direction="completion") == 3
    assert house.total("router_prompt_cache_tokens_total", model=A.name) == 5
    async with house.house.dispatcher.generate(A, REQUEST) as answer:
        deltas = aiter(answer.deltas)
        await anext(deltas)
        await anext(deltas)
    assert house.total("router_tokens_total", model=A.name, direction="completion") == 5


async def test_times_to_the_first_and_between_tokens_are_measured(house: Scene) -> None:
    house.launcher.scripts[A.name] = [["a", "b", Delta("c", 1, FinishReason.STOP, Usage(1, 3))]]
    await words(house)
    assert house.total("router_time_to_first_token_seconds_count") == 1
    assert house.total("router_inter_token_seconds_count") == 2


async def test_embeddings_are_counted_and_retried_like_the_rest(house: Scene) -> None:
    asked = EmbeddingRequest("e1", ("a", "b"))
    answer = await house.house.dispatcher.embed(A, asked)
    assert (answer.attempts, answer.embeddings.dimensions) == (1, 3)
    assert house.total("router_tokens_total", direction="prompt") == 4
    worker = house.launcher.worker()

    async def crash(request: EmbeddingRequest) -> None:
        worker._gone.set()
        raise WorkerCrashed("gone")

    worker.embed = crash  # type: ignore[method-assign,assignment]
    assert (await house.house.dispatcher.embed(A, asked)).attempts == 2
    assert leases(house) == 0


async def test_a_model_that_cannot_be_loaded_is_tried_once_more_with_the_file_of_now(house: Scene) -> None:
    asked: list[LocalModel] = []

    async def reread(model: LocalModel) -> LocalModel | None:
        asked.append(model)
        return msgspec.structs.replace(model, problem=None)

    broken = msgspec.structs.replace(A, problem="half a file")
    dispatcher = Dispatcher(house.house.residency, house.house.metrics, reread=reread)
    async with dispatcher.generate(broken, REQUEST) as answer:
        assert [delta.text async for delta in answer.deltas] == ["Hello", " world", ""]
    await dispatcher.load(broken)
    assert asked == [broken]  # the second time it was in memory


async def test_the_file_of_now_is_tried_once_and_an_unchanged_one_not_again(house: Scene) -> None:
    asked: list[LocalModel] = []

    async def still(model: LocalModel) -> LocalModel | None:
        asked.append(model)
        return msgspec.structs.replace(model, problem="still broken") if len(asked) == 1 else None

    broken = msgspec.structs.replace(A, problem="broken")
    dispatcher = Dispatcher(house.house.residency, house.house.metrics, reread=still)
    for words in ("still broken", "^broken"):
        with pytest.raises(LoadFailed, match=words):
            await dispatcher.load(broken)
    assert len(asked) == 2


async def test_a_registry_that_cannot_be_read_again_leaves_the_first_error(house: Scene) -> None:
    async def refused(model: LocalModel) -> LocalModel | None:
        raise RegistryInvalid(["r.yaml:1:1: no"])

    broken = msgspec.structs.replace(A, problem="broken")
    dispatcher = Dispatcher(house.house.residency, house.house.metrics, reread=refused)
    with pytest.raises(LoadFailed, match="broken"):
        await dispatcher.load(broken)
