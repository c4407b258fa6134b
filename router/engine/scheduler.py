"""
Who is in a slot, who waits for one, and what the next batch holds.

The one rule: it decides and never acts. Decodes go first, so that a long prompt slows an answer but never
stops it; prompts are then read in the order in which they came, as far as the batch has room.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from router.engine.batch import Tokens, Work
from router.engine.kv_cache import KvCache, Slot
from router.engine.sequence import EmbeddingJob, Sequence

Job = Sequence | EmbeddingJob
_NO_PROMPT: Tokens = np.empty(0, np.int32)


class Scheduler:
    """`width` is the most tokens of one batch, `slots * context` the cells of the cache."""

    def __init__(self, slots: int, context: int, width: int) -> None:
        self.cache = KvCache(slots, context)
        self._width = width
        # Beside running answers a prompt gets this much of a batch: they wait for it with every token.
        self._shared_width = min(width, max(32, width // 4))
        self._waiting: deque[Job] = deque()
        self._running: dict[str, Sequence] = {}
        self._embedding: deque[EmbeddingJob] = deque()
        self._embedded_last = False

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running or self._embedding)

    def ids(self) -> list[str]:
        return [*self._running, *(job.id for job in (*self._embedding, *self._waiting))]

    def prompts(self) -> list[tuple[str, int, int]]:
        """Of each prompt that is being read: its id, how many tokens are in its slot, how many it has."""
        reading = [seq for seq in self._running.values() if seq.prefilling]
        return [(seq.id, seq.slot.length, len(seq.prompt)) for seq in reading if seq.slot is not None]

    def add(self, job: Job) -> None:
        self._waiting.append(job)

    def admissible(self) -> tuple[Job, Slot, int] | None:
        """The head of the queue with the slot it gets and the tokens found there; call until None."""
        if not self._waiting:
            return None
        job = self._waiting[0]
        taken = self.cache.take(*_reusable(job))
        if taken is None:
            return None
        self._waiting.popleft()
        if isinstance(job, Sequence):
            self._running[job.id] = job
        else:
            self._embedding.append(job)
        return job, *taken

    def next_embedding(self) -> EmbeddingJob | None:
        """The job whose turn it is: embedding and generating take turns, and so do embedding jobs."""
        if not self._embedding or (self._running and self._embedded_last):
            self._embedded_last = False
            return None
        self._embedded_last = True
        self._embedding.rotate(-1)
        return self._embedding[-1]

    def batch(self) -> list[tuple[Sequence, Work]]:
        """
        One decode for every running sequence that has read its prompt, and pieces of prompts; by slot.

        llama.cpp computes together only slots that follow each other in the batch (`split_equal`): in another
        order eight streams on two cores gave 145 tokens/s instead of 240.
        """
        decodes = [seq for seq in self._running.values() if not seq.prefilling]
        batch = [(seq, seq.work(1)) for seq in decodes]
        room = self._width - len(batch)
        if decodes:
            room = min(room, self._shared_width)
        for seq in self._running.values():
            if room <= 0:
                break
            if seq.prefilling:
                work = seq.work(room)
                room -= len(work.tokens)
                batch.append((seq, work))
        return sorted(batch, key=lambda item: item[1].slot)

    def remove(self, id: str) -> Job | None:
        """Take a job out, wherever it is; its slot is free again. None if it is unknown."""
        job: Job | None = self._running.pop(id, None)
        for queue in (self._embedding, self._waiting):
            found: Job | None = next((job for job in queue if job.id == id), None)
            if found is not None:
                queue.remove(found)  # type: ignore[arg-type]
                job = found
        if job is not None and job.slot is not None:
            self.cache.release(job.slot)
        return job


def _reusable(job: Job) -> tuple[Tokens, str]:
    """The tokens that a slot may hold already, and whose they have to be."""
    if isinstance(job, Sequence):
        return (job.prompt if job.reuses else _NO_PROMPT), job.tenant
    return _NO_PROMPT, ""
