from __future__ import annotations

import numpy as np

from router.domain.generation import SamplingParams
from router.engine.scheduler import Scheduler
from router.engine.sequence import EmbeddingJob, Sequence


class _Sampler:
    def close(self) -> None:
        pass


def sequence(id: str, length: int = 4) -> Sequence:
    return Sequence(id, np.arange(length, dtype=np.int32), SamplingParams(), seed=1, limit=100)


def embedding(id: str) -> EmbeddingJob:
    return EmbeddingJob(id, (np.array([1], np.int32),))


def admit(scheduler: Scheduler) -> list[str]:
    ids = []
    while admissible := scheduler.admissible():
        job, slot, _ = admissible
        slot.length = 0
        if isinstance(job, Sequence):
            job.admit(slot, 0, _Sampler())
        else:
            job.slot = slot
        ids.append(job.id)
    return ids


def run(scheduler: Scheduler) -> list[tuple[str, int]]:
    """One batch as if decoded: who had how many tokens in it."""
    batch = scheduler.batch()
    for seq, work in batch:
        seq.decoded(work)
        if work.sampler is not None:
            seq.sampled(65, b"A", False)
    return [(seq.id, len(work.tokens)) for seq, work in batch]


def test_who_finds_no_slot_waits_in_line():
    scheduler = Scheduler(slots=1, context=100, width=32)
    for id in ("a", "b", "c"):
        scheduler.add(sequence(id))
    assert admit(scheduler) == ["a"]
    scheduler.remove("a")
    assert admit(scheduler) == ["b"]


def test_a_batch_is_in_the_order_of_slots_whoever_came_first():
    scheduler = Scheduler(slots=3, context=100, width=32)
    for id in ("a", "b", "c"):
        scheduler.add(sequence(id))
    admit(scheduler)
    scheduler.remove("a")
    scheduler.add(sequence("d"))
    admit(scheduler)
    assert [work.slot for _, work in scheduler.batch()] == [0, 1, 2]
    assert [seq.id for seq, _ in scheduler.batch()] == ["d", "b", "c"]


def test_a_long_prompt_is_read_a_batch_at_a_time():
    scheduler = Scheduler(slots=1, context=200, width=64)
    scheduler.add(sequence("a", 100))
    admit(scheduler)
    assert [run(scheduler) for _ in range(3)] == [[("a", 64)], [("a", 36)], [("a", 1)]]


def test_answers_go_first_and_a_prompt_gets_a_share_beside_them():
    scheduler = Scheduler(slots=2, context=1000, width=256)
    scheduler.add(sequence("a", 4))
    admit(scheduler)
    run(scheduler)
    scheduler.add(sequence("b", 500))
    admit(scheduler)
    assert run(scheduler) == [("a", 1), ("b", 64)]
    assert run(scheduler) == [("a", 1), ("b", 64)]


def test_prompts_share_a_batch_in_the_order_in_which_they_came():
    scheduler = Scheduler(slots=3, context=100, width=64)
    for id, length in (("a", 40), ("b", 40), ("c", 40)):
        scheduler.add(sequence(id, length))
    admit(scheduler)
    assert run(scheduler) == [("a", 40), ("b", 24)]
    assert run(scheduler) == [("a", 1), ("b", 16), ("c", 16)]


def test_a_batch_never_exceeds_its_width():
    scheduler = Scheduler(slots=4, context=100, width=4)
    for id in "abcd":
        scheduler.add(sequence(id, 10))
    admit(scheduler)
    for _ in range(60):
        assert sum(count for _, count in run(scheduler)) <= 4


def test_embeddings_and_generations_take_turns():
    scheduler = Scheduler(slots=2, context=100, width=32)
    scheduler.add(sequence("a"))
    scheduler.add(embedding("e"))
    admit(scheduler)
    turns = [scheduler.next_embedding() is not None for _ in range(6)]
    assert turns == [True, False, True, False, True, False]


def test_an_embedding_alone_has_every_turn_and_two_alternate():
    scheduler = Scheduler(slots=2, context=100, width=32)
    scheduler.add(embedding("e"))
    scheduler.add(embedding("f"))
    admit(scheduler)
    assert [scheduler.next_embedding().id for _ in range(4)] == ["e", "f", "e", "f"]


def test_a_job_can_be_removed_wherever_it_is_and_its_slot_is_free():
    scheduler = Scheduler(slots=2, context=100, width=32)
    for job in (sequence("a"), embedding("e"), sequence("waits")):
        scheduler.add(job)
    admit(scheduler)
    assert scheduler.ids() == ["a", "e", "waits"]
    assert [scheduler.remove(id).id for id in ("waits", "e", "a")] == ["waits", "e", "a"]
    assert not scheduler.busy
    assert scheduler.cache.busy == 0


def test_prompts_are_told_until_they_are_read():
    scheduler = Scheduler(slots=2, context=100, width=4)
    scheduler.add(sequence("a", 10))
    assert scheduler.prompts() == []
    admit(scheduler)
    assert scheduler.prompts() == [("a", 0, 10)]
    run(scheduler)
    assert scheduler.prompts() == [("a", 4, 10)]
    run(scheduler)
    run(scheduler)
    assert scheduler.prompts() == []


def test_removing_who_is_not_there_is_no_error():
    assert Scheduler(slots=1, context=100, width=32).remove("a") is None
