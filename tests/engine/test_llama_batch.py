from __future__ import annotations

import numpy as np

from router.engine.batch import Work
from router.engine.llama_batch import Batch


class Chain:
    """Stands where a sampler would: the batch only asks whether there is one."""

    def close(self) -> None: ...


def test_works_are_laid_one_after_another_with_their_positions_and_slots() -> None:
    batch = Batch(8)
    works = [
        Work(slot=2, start=5, tokens=np.array([10, 11], np.int32), sampler=None),
        Work(slot=0, start=0, tokens=np.array([7], np.int32), sampler=Chain()),
    ]
    assert batch.fill(works) == [None, 2]
    struct = batch.struct
    assert struct.n_tokens == 3
    assert [struct.token[i] for i in range(3)] == [10, 11, 7]
    assert [struct.pos[i] for i in range(3)] == [5, 6, 0]
    assert [struct.seq_id[i][0] for i in range(3)] == [2, 2, 0]
    assert [struct.n_seq_id[i] for i in range(3)] == [1, 1, 1]
    assert [struct.logits[i] for i in range(3)] == [0, 0, 1]


def test_a_second_filling_leaves_nothing_of_the_first() -> None:
    batch = Batch(8)
    batch.fill([Work(slot=1, start=0, tokens=np.arange(4, dtype=np.int32), sampler=Chain())])
    batch.fill([Work(slot=3, start=9, tokens=np.array([5], np.int32), sampler=None)])
    assert batch.struct.n_tokens == 1
    assert (batch.struct.pos[0], batch.struct.seq_id[0][0], batch.struct.logits[0]) == (9, 3, 0)


def test_every_row_is_an_output_where_that_is_asked_for() -> None:
    batch = Batch(4)
    batch.fill([Work(slot=0, start=0, tokens=np.arange(3, dtype=np.int32), sampler=None)], output_all=True)
    assert [batch.struct.logits[i] for i in range(3)] == [1, 1, 1]
