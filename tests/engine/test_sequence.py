from __future__ import annotations

import numpy as np
import pytest

from router.domain.generation import Delta, FinishReason, SamplingParams, Usage
from router.engine.kv_cache import Slot
from router.engine.sequence import EmbeddingJob, Sequence


class _Sampler:
    def close(self) -> None:
        pass


def sequence(prompt: str = "hello", limit: int = 10, **sampling: object) -> Sequence:
    made = Sequence("s", tokens(prompt), SamplingParams(**sampling), seed=1, limit=limit)
    made.admit(Slot(3, 100), 0, _Sampler())
    return made


def tokens(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


def read_prompt(sequence: Sequence) -> None:
    while sequence.slot.length < len(sequence.prompt):
        sequence.decoded(sequence.work(100))


def test_a_prompt_is_read_in_pieces_and_only_the_last_asks_for_a_token():
    seq = sequence("hello")
    first = seq.work(3)
    assert (first.slot, first.start, first.tokens.tolist(), first.sampler) == (3, 0, [104, 101, 108], None)
    seq.decoded(first)
    last = seq.work(3)
    assert (last.start, last.tokens.tolist()) == (3, [108, 111])
    assert last.sampler is seq.sampler


def test_after_the_prompt_each_sampled_token_is_decoded_next():
    seq = sequence("hi")
    read_prompt(seq)
    seq.sampled(65, b"A", False)
    work = seq.work(1)
    assert (work.start, work.tokens.tolist(), work.sampler) == (2, [65], seq.sampler)


def test_a_token_gives_its_text_and_is_counted():
    seq = sequence()
    assert seq.sampled(65, b"A", False) == Delta("A", tokens=1)


def test_tokens_that_say_nothing_yet_are_counted_with_the_next_word():
    seq = sequence()
    assert seq.sampled(1, "é".encode()[:1], False) is None
    assert seq.sampled(2, "é".encode()[1:], False) == Delta("é", tokens=2)


def test_the_end_token_says_nothing_and_ends():
    seq = sequence("hello")
    seq.sampled(65, b"A", False)
    assert seq.sampled(256, b"", True) == Delta("", 1, FinishReason.STOP, Usage(5, 2, 0))


def test_the_limit_ends_with_length():
    seq = sequence(limit=1)
    delta = seq.sampled(65, b"A", False)
    assert (delta.text, delta.finish_reason) == ("A", FinishReason.LENGTH)


def test_a_stop_string_ends_with_stop_even_at_the_limit():
    seq = sequence(limit=1, stop=("A",))
    delta = seq.sampled(65, b"A", False)
    assert (delta.text, delta.finish_reason) == ("", FinishReason.STOP)


def test_text_held_for_a_stop_string_comes_with_the_end():
    seq = sequence(stop=("AB",))
    assert seq.sampled(65, b"A", False) is None
    assert seq.sampled(256, b"", True).text == "A"


def test_cached_tokens_are_in_the_usage():
    seq = Sequence("s", tokens("hello"), SamplingParams(), seed=1, limit=1)
    slot = Slot(0, 100)
    slot.append(tokens("hel"))
    seq.admit(slot, 3, _Sampler())
    assert seq.work(10).start == 3
    assert seq.sampled(65, b"A", False).usage == Usage(5, 1, cached_tokens=3)


def test_an_embedding_is_the_mean_of_its_pieces_at_unit_length():
    job = EmbeddingJob("e", (tokens("abc"),))
    job.slot = Slot(0, 100)
    rows = np.array([[3, 0], [0, 4], [3, 4]], np.float32)
    work = job.work(2)
    assert (work.start, work.tokens.tolist(), job.embedded(work, rows[:2])) == (0, [97, 98], False)
    work = job.work(2)
    assert (work.start, work.tokens.tolist(), job.embedded(work, rows[2:])) == (2, [99], True)
    mean = rows.mean(axis=0)
    assert np.frombuffer(job.result.vectors[0], "<f4") == pytest.approx(mean / np.linalg.norm(mean))
    assert (job.result.dimensions, job.result.prompt_tokens) == (2, 3)


def test_several_inputs_give_as_many_vectors_in_their_order():
    job = EmbeddingJob("e", (tokens("a"), tokens("b")))
    job.slot = Slot(0, 100)
    for row in ([1, 0], [0, 1]):
        assert job.result is None
        job.embedded(job.work(10), np.array([row], np.float32))
    assert [np.frombuffer(v, "<f4").tolist() for v in job.result.vectors] == [[1, 0], [0, 1]]


def test_a_vector_of_zeros_stays_zeros():
    job = EmbeddingJob("e", (tokens("a"),))
    job.slot = Slot(0, 100)
    job.embedded(job.work(10), np.zeros((1, 2), np.float32))
    assert np.frombuffer(job.result.vectors[0], "<f4").tolist() == [0, 0]
