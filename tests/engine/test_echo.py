from __future__ import annotations

import numpy as np
import pytest

from router.domain.generation import SamplingParams
from router.domain.models import EngineOptions, Footprint
from router.engine import echo
from router.engine.batch import DecodeFailed, EngineError, Work

OPTIONS = EngineOptions(context=10, slots=2, ubatch=8)


def load(path: str = "echo:") -> echo.EchoBackend:
    return echo.load(path, OPTIONS, lambda _: None)


def work(slot: int, start: int, text: str) -> Work:
    return Work(slot, start, np.frombuffer(text.encode(), np.uint8).astype(np.int32))


def test_a_script_is_a_query():
    told = echo.script("echo:?load_ms=50&step_ms=5&weights=100&kv_cache=20&compute=3&fail=exit_decode:7")
    assert told == echo.Script(0.05, 0.005, Footprint(100, 20, 3), "exit_decode", 7)


@pytest.mark.parametrize("path", ["echo:", "echo:?", "anything"])
def test_without_a_script_an_echo_behaves(path):
    assert echo.script(path) == echo.Script()


@pytest.mark.parametrize(
    "path", ["echo:?weight=1", "echo:?load_ms=x", "echo:?fail=explode", "echo:?fail=refuse:x"]
)
def test_a_script_with_a_mistake_is_refused(path):
    with pytest.raises(EngineError):
        load(path)


def test_a_load_reports_its_progress_and_claims_its_bytes():
    seen: list[float] = []
    backend = echo.load("echo:?weights=100&kv_cache=20", OPTIONS, seen.append)
    assert seen[-1] == 1 and seen == sorted(seen)
    assert backend.resident == echo.dry_run("echo:?weights=100&kv_cache=20", OPTIONS)
    assert backend.resident == {"host": Footprint(100, 20)}


def test_a_load_fails_when_it_is_told_to():
    with pytest.raises(EngineError, match="told to fail"):
        load("echo:?fail=load")


def test_it_says_the_prompt_and_the_end():
    backend = load()
    tokens = work(0, 0, "hi").tokens
    sampler = backend.sampler(SamplingParams(), 1, tokens)
    said = backend.decode([Work(0, 0, tokens, sampler)])
    while said[-1] != echo.END:
        at = len(backend.cells[0])
        said += backend.decode([Work(0, at, np.array(said[-1:], np.int32), sampler)])
    assert b"".join(map(backend.piece, said)) == b"hi"
    assert backend.is_end(said[-1])


def test_it_refuses_what_an_engine_must_not_do():
    backend = load()
    backend.decode([work(0, 0, "abc")])
    for wrong in (work(0, 2, "x"), work(0, 4, "x"), work(0, 3, ""), work(0, 3, "12345678")):
        with pytest.raises(EngineError):
            backend.decode([wrong])
    with pytest.raises(EngineError, match="more than 8"):
        backend.decode([work(0, 3, "12345"), work(1, 0, "12345")])
    with pytest.raises(EngineError, match="holds"):
        backend.keep(0, 4)


def test_it_notices_a_cache_that_holds_another_text():
    backend = load()
    backend.decode([work(0, 0, "abc")])
    sampler = backend.sampler(SamplingParams(), 1, work(0, 0, "xyz!").tokens)
    with pytest.raises(EngineError, match="another text"):
        backend.decode([Work(0, 3, work(0, 0, "!").tokens, sampler)])


def test_it_refuses_the_batches_of_a_slot_when_told_to():
    backend = load("echo:?fail=refuse:1")
    backend.decode([work(0, 0, "a")])
    with pytest.raises(DecodeFailed):
        backend.decode([work(1, 0, "a")])


def test_its_vectors_put_texts_with_the_same_letters_near_each_other():
    def vector(text: str) -> np.ndarray:
        rows = load().embed(work(0, 0, text)).sum(axis=0)
        return rows / np.linalg.norm(rows)

    near, far = vector("abc") @ vector("cab"), vector("abc") @ vector("!?.")
    assert near > far
