"""
One `llama_batch`, filled through numpy views on its arrays: item by item is 200 times slower.

The one rule: the arrays live as long as the batch, and the struct points into them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from router.engine.batch import Work
from router.engine.llama_log import llama

_ctypes = llama.ctypes


class Batch:
    """Room for `width` tokens."""

    def __init__(self, width: int) -> None:
        self._tokens = np.zeros(width, np.int32)
        self._positions = np.zeros(width, np.int32)
        self._counts = np.ones(width, np.int32)
        self._slots = np.zeros(width, np.int32)
        # llama.cpp wants a pointer to a list of sequences for each token; ours are lists of one.
        self._pointers = self._slots.ctypes.data + 4 * np.arange(width, dtype=np.uintp)
        self._outputs = np.zeros(width, np.int8)
        self.struct = llama.llama_batch(
            n_tokens=0,
            token=_pointer(self._tokens, _ctypes.c_int32),
            pos=_pointer(self._positions, _ctypes.c_int32),
            n_seq_id=_pointer(self._counts, _ctypes.c_int32),
            seq_id=_pointer(self._pointers, _ctypes.POINTER(_ctypes.c_int32)),
            logits=_pointer(self._outputs, _ctypes.c_int8),
        )

    def fill(self, works: Sequence[Work], output_all: bool = False) -> list[int | None]:
        """Returns for each Work the index of its output, which is its last token; None without a sampler."""
        outputs: list[int | None] = []
        start = 0
        for work in works:
            end = start + len(work.tokens)
            self._tokens[start:end] = work.tokens
            self._positions[start:end] = np.arange(work.start, work.start + len(work.tokens))
            self._slots[start:end] = work.slot
            self._outputs[start:end] = output_all
            if work.sampler is not None:
                self._outputs[end - 1] = 1
            outputs.append(None if work.sampler is None else end - 1)
            start = end
        self.struct.n_tokens = start
        return outputs


def _pointer(array: Any, kind: Any) -> Any:
    return _ctypes.cast(array.ctypes.data, _ctypes.POINTER(kind))
