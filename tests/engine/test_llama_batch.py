from __future__ import annotations

import numpy as np

from router.engine.batch import Work
from router.engine.llama_batch import Batch


class _Sampler:
    def close(self) -> None:
        pass


def seen(batch: Batch) -> list[tuple[int, int, list[int], int]]:
    """Token, position, sequences, output: read through the pointers, as llama.cpp does."""
    struct = batch.struct
    return [
        (
            struct.token[i],
            struct.pos[i],
            [struct.seq_id[i][j] for j in range(struct.n_seq_id[i])],
            struct.logits[i],
        )
        for i in range(struct.n_tokens)
    ]


def test_llama_cpp_sees_each_token_at_its_place():
    batch = Batch(8)
    works = [
        Work(2, 10, np.array([7], np.int32), _Sampler()),
        Work(0, 0, np.array([4, 5], np.int32)),
        Work(1, 3, np.array([8, 9], np.int32), _Sampler()),
    ]
    assert batch.fill(works) == [0, None, 4]
    assert seen(batch) == [(7, 10, [2], 1), (4, 0, [0], 0), (5, 1, [0], 0), (8, 3, [1], 0), (9, 4, [1], 1)]


def test_a_batch_is_filled_anew_each_time():
    batch = Batch(8)
    batch.fill([Work(0, 0, np.array([1, 2, 3], np.int32), _Sampler())])
    batch.fill([Work(1, 5, np.array([4, 5, 6], np.int32))])
    assert seen(batch) == [(4, 5, [1], 0), (5, 6, [1], 0), (6, 7, [1], 0)]


def test_an_embedding_wants_every_output():
    batch = Batch(8)
    batch.fill([Work(0, 0, np.array([1, 2], np.int32))], output_all=True)
    assert [output for *_, output in seen(batch)] == [1, 1]
