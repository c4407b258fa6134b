"""
Continuous batching over one model: `step` is the whole interface, everything else prepares it.

One life of a request:

1. `prepare` (intake thread): template, tokens, checks. A Sequence that no slot knows yet, or InvalidRequest.
2. `add` (step thread): it waits. Leases bound the number, so it hardly ever waits long.
3. `step` admits it: the slot that holds the longest beginning of its prompt, the rest of it cut off.
4. Further steps read its prompt in pieces, beside the next token of every running answer.
5. The last piece yields the first token; from then on each step yields one: bytes -> text -> `Progressed`.
6. End token, stop string, `max_tokens` or a full context: `Finished`, slot free, its cells kept for later.
   `cancel` does the same between two steps and says nothing. A batch that llama.cpp refuses is tried again
   sequence by sequence; the one at fault is `Broken`. If all is lost, `step` raises EngineError.

An embedding request lives alike in a slot of its own; its steps take turns with those of the generations.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from router.domain.errors import InvalidRequest
from router.domain.generation import Delta, EmbeddingRequest, Embeddings, GenerationRequest, SamplingParams
from router.domain.models import Footprint
from router.engine import sampling
from router.engine.batch import (
    DecodeFailed,
    EngineError,
    EngineFacts,
    Matrix,
    ModelRefused,
    OutOfMemory,
    Sampler,
    Tokens,
    Work,
)
from router.engine.prompt import PromptReader, Vocabulary
from router.engine.scheduler import Job, Scheduler
from router.engine.sequence import EmbeddingJob, Sequence

__all__ = [
    "Backend",
    "Broken",
    "EmbeddingDone",
    "EmbeddingJob",
    "Engine",
    "EngineError",
    "EngineFacts",
    "Finished",
    "Gauges",
    "ModelRefused",
    "OutOfMemory",
    "Output",
    "Progressed",
    "Sequence",
]  # fmt: skip


class Backend(Vocabulary, Protocol):
    """
    One loaded model with its context and KV cache. Not thread-safe, but for what Vocabulary says.

    `width` is the most tokens of one `decode`, `embedding_width` of one `embed`; `mapped`: bytes of `resident`
    that are weights read from the mapped file.
    """

    facts: EngineFacts
    resident: dict[str, Footprint]
    mapped: int
    width: int
    embedding_width: int

    def piece(self, token: int) -> bytes:
        """The bytes of a token, b"" for special ones."""
        ...

    def is_end(self, token: int) -> bool: ...

    def sampler(self, params: SamplingParams, seed: int, prompt: Tokens) -> Sampler: ...

    def keep(self, slot: int, length: int) -> int:
        """Cut the slot's cells off behind `length`. Returns what is really left: that, or 0."""
        ...

    def decode(self, batch: list[Work]) -> list[int | None]:
        """The sampled token of each Work with a sampler. Raises DecodeFailed; EngineError if all is lost."""
        ...

    def embed(self, work: Work) -> Matrix:
        """One row a token, or one row in all if the model pools. Raises as `decode` does."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Progressed:
    id: str
    delta: Delta


@dataclass(frozen=True, slots=True)
class Finished:
    """The last delta: it has a finish reason and the usage."""

    id: str
    delta: Delta


@dataclass(frozen=True, slots=True)
class EmbeddingDone:
    id: str
    embeddings: Embeddings


@dataclass(frozen=True, slots=True)
class Broken:
    """This request failed; the others go on."""

    id: str
    message: str


Output = Progressed | Finished | EmbeddingDone | Broken


@dataclass(frozen=True, slots=True)
class Gauges:
    """State after a step; the counters run from the load. `prompt_tokens` counts the cached ones too."""

    slots_busy: int = 0
    kv_cells_used: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


def _random_seed() -> int:
    return int.from_bytes(os.urandom(4), "little")


class Engine:
    """Owns the backend. `random_seed` and `now` are arguments so that tests can repeat themselves."""

    def __init__(
        self,
        backend: Backend,
        random_seed: Callable[[], int] = _random_seed,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._backend = backend
        self.facts = backend.facts
        self.resident = backend.resident
        self.mapped = backend.mapped
        self._random_seed = random_seed
        self._reader = PromptReader(backend, self.facts.vocabulary, self.facts.context, now)
        self._scheduler = Scheduler(self.facts.slots, self.facts.context, backend.width)
        self._steps = 0
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._completion_tokens = 0

    def prepare(self, request: GenerationRequest) -> Sequence:
        """From any one thread. Raises InvalidRequest, ContextOverflow."""
        if not self.facts.can_generate:
            raise InvalidRequest("This model embeds; it does not generate text.", param="model")
        params = request.sampling
        sampling.check(params, self.facts.vocabulary)
        prompt = self._reader.read(request.prompt, request.field)
        room = self.facts.context - len(prompt)
        limit = room if params.max_tokens is None else min(params.max_tokens, room)
        seed = self._random_seed() if params.seed is None else params.seed
        return Sequence(request.id, prompt, params, seed, limit, request.cache_prompt, request.tenant)

    def prepare_embedding(self, request: EmbeddingRequest) -> EmbeddingJob:
        """From any one thread. Raises InvalidRequest, ContextOverflow."""
        if not self.facts.embedding_dimensions:
            raise InvalidRequest("This model cannot embed.", param="model")
        if not request.inputs:
            raise InvalidRequest("input must not be empty.", param="input")
        return EmbeddingJob(request.id, tuple(self._reader.read_inputs(request.inputs)))

    def add(self, job: Job) -> None:
        """Its id must not be in use."""
        self._scheduler.add(job)

    def cancel(self, id: str) -> bool:
        """False if there is no such request (any more)."""
        return self._remove(id)

    @property
    def busy(self) -> bool:
        """True while a step would do something."""
        return self._scheduler.busy

    def prompts(self) -> list[tuple[str, int, int]]:
        """How far each prompt has been read that is not read whole: id, tokens read, tokens in all."""
        return self._scheduler.prompts()

    def gauges(self) -> Gauges:
        cache = self._scheduler.cache
        counters = (self._steps, self._prompt_tokens, self._cached_tokens, self._completion_tokens)
        return Gauges(cache.busy, cache.cells_used, *counters)

    def step(self) -> list[Output]:
        """Admit who waits, decode one batch. Raises EngineError when nothing can be decoded any more."""
        outputs: list[Output] = []
        self._admit()
        if job := self._scheduler.next_embedding():
            self._embed(job, outputs)
        elif batch := self._scheduler.batch():
            self._decode(batch, outputs)
        self._steps += 1
        return outputs

    def close(self) -> None:
        """Frees everything; running requests are dropped."""
        for id in self._scheduler.ids():
            self._remove(id)
        self._backend.close()

    def _admit(self) -> None:
        while admissible := self._scheduler.admissible():
            job, slot, cached = admissible
            slot.length = self._backend.keep(slot.index, cached)
            if isinstance(job, EmbeddingJob):
                job.slot = slot
                self._prompt_tokens += job.prompt_tokens
                continue
            job.admit(slot, slot.length, self._backend.sampler(job.sampling, job.seed, job.prompt))
            self._prompt_tokens += len(job.prompt)
            self._cached_tokens += job.cached

    def _decode(self, batch: list[tuple[Sequence, Work]], outputs: list[Output]) -> None:
        try:
            tokens = self._backend.decode([work for _, work in batch])
        except DecodeFailed as failure:
            self._isolate(batch, failure, outputs)
            return
        for (sequence, work), token in zip(batch, tokens, strict=True):
            sequence.decoded(work)
            if token is not None:
                self._sampled(sequence, token, outputs)

    def _isolate(
        self, batch: list[tuple[Sequence, Work]], failure: DecodeFailed, outputs: list[Output]
    ) -> None:
        """One sequence must not take the others with it: find the one that llama.cpp refuses."""
        if len(batch) > 1:
            for item in batch:
                self._decode([item], outputs)
            return
        self._break(batch[0][0], failure, outputs)

    def _break(self, job: Job, failure: DecodeFailed, outputs: list[Output]) -> None:
        self._clear(job)
        self._remove(job.id)
        outputs.append(Broken(job.id, str(failure)))

    def _sampled(self, sequence: Sequence, token: int, outputs: list[Output]) -> None:
        self._completion_tokens += 1
        delta = sequence.sampled(token, self._backend.piece(token), self._backend.is_end(token))
        if delta is None:
            return
        if delta.finish_reason is None:
            outputs.append(Progressed(sequence.id, delta))
            return
        self._remove(sequence.id)
        outputs.append(Finished(sequence.id, delta))

    def _embed(self, job: EmbeddingJob, outputs: list[Output]) -> None:
        work = job.work(self._backend.embedding_width)
        try:
            complete = job.embedded(work, self._backend.embed(work))
        except DecodeFailed as failure:
            self._break(job, failure, outputs)
            return
        if complete:
            self._clear(job)
        if (result := job.result) is not None:
            self._remove(job.id)
            outputs.append(EmbeddingDone(job.id, result))

    def _clear(self, job: Job) -> None:
        assert job.slot is not None
        job.slot.length = self._backend.keep(job.slot.index, 0)

    def _remove(self, id: str) -> bool:
        job = self._scheduler.remove(id)
        if isinstance(job, Sequence) and job.sampler is not None:
            job.sampler.close()
        if isinstance(job, EmbeddingJob) and job.slot is not None:
            self._clear(job)
        return job is not None
