"""
One running generation and one running embedding request: how far each has come.

The one rule: they change only when the engine tells them what was decoded, and they never touch a backend.
"""

from __future__ import annotations

import numpy as np

from router.domain.generation import Delta, Embeddings, FinishReason, SamplingParams, Usage
from router.engine.assembler import TextAssembler
from router.engine.batch import Matrix, Sampler, Tokens, Work
from router.engine.kv_cache import Slot

_NO_TOKENS: Tokens = np.empty(0, np.int32)


class Sequence:
    """
    A prompt and the answer that grows behind it. Made by `Engine.prepare`, not yet in a slot.

    `limit` is the most tokens that may be sampled; it never exceeds what the context leaves. `reuses`: what a
    slot holds of the prompt already is not computed again.
    """

    def __init__(
        self,
        id: str,
        prompt: Tokens,
        sampling: SamplingParams,
        seed: int,
        limit: int,
        reuses: bool = True,
        tenant: str = "",
    ) -> None:
        self.id = id
        self.prompt = prompt
        self.sampling = sampling
        self.seed = seed
        self.limit = limit
        self.reuses = reuses
        self.tenant = tenant
        self.slot: Slot | None = None
        self.sampler: Sampler | None = None
        self.cached = 0
        self.completion = 0
        self._next = _NO_TOKENS
        self._unreported = 0
        self._assembler = TextAssembler(sampling.stop)

    def __repr__(self) -> str:
        return f"<Sequence {self.id} prompt={len(self.prompt)} completion={self.completion} {self.slot}>"

    @property
    def prefilling(self) -> bool:
        return self.completion == 0

    def admit(self, slot: Slot, cached: int, sampler: Sampler) -> None:
        """It is in a slot whose first `cached` tokens are those of the prompt."""
        self.slot, self.cached, self.sampler = slot, cached, sampler

    def work(self, most: int) -> Work:
        """The next tokens to decode: at most `most` of the prompt, and then the one just sampled."""
        assert self.slot is not None
        start = self.slot.length
        if not self.prefilling:
            return Work(self.slot.index, start, self._next, self.sampler)
        tokens = self.prompt[start : start + most]
        last = start + len(tokens) == len(self.prompt)
        return Work(self.slot.index, start, tokens, self.sampler if last else None)

    def decoded(self, work: Work) -> None:
        assert self.slot is not None
        self.slot.append(work.tokens)

    def sampled(self, token: int, piece: bytes, is_end: bool) -> Delta | None:
        """The token that follows. Returns what can be said now: the last delta has a finish reason."""
        self.completion += 1
        self._unreported += 1
        self._next = np.array([token], np.int32)
        text = "" if is_end else self._assembler.feed(piece)
        if is_end or self._assembler.stopped:
            return self._last(text, FinishReason.STOP)
        if self.completion >= self.limit:
            return self._last(text, FinishReason.LENGTH)
        return self._delta(text) if text else None

    def _last(self, text: str, reason: FinishReason) -> Delta:
        text += self._assembler.finish()
        if self._assembler.stopped:
            reason = FinishReason.STOP
        usage = Usage(len(self.prompt), self.completion, self.cached)
        return Delta(text, self._unreported, reason, usage)

    def _delta(self, text: str) -> Delta:
        count, self._unreported = self._unreported, 0
        return Delta(text, count)


class EmbeddingJob:
    """Several inputs, embedded one after the other, in pieces, in one slot."""

    def __init__(self, id: str, inputs: tuple[Tokens, ...]) -> None:
        self.id = id
        self.inputs = inputs
        self.slot: Slot | None = None
        self._vectors: list[bytes] = []
        self._sum: Matrix | None = None
        self._done = 0

    def __repr__(self) -> str:
        return f"<EmbeddingJob {self.id} {len(self._vectors)}/{len(self.inputs)} {self.slot}>"

    @property
    def prompt_tokens(self) -> int:
        return sum(map(len, self.inputs))

    def work(self, most: int) -> Work:
        assert self.slot is not None
        tokens = self.inputs[len(self._vectors)][self._done : self._done + most]
        return Work(self.slot.index, self._done, tokens)

    def embedded(self, work: Work, rows: Matrix) -> bool:
        """
        What the model made of that piece: one row a token, or one row in all if it pools by itself.

        True when an input is complete, so that its slot can be cleared for the next one.
        """
        total = rows.sum(axis=0, dtype=np.float32)
        self._sum = total if self._sum is None else self._sum + total
        self._done += len(work.tokens)
        if self._done < len(self.inputs[len(self._vectors)]):
            return False
        # The sum has the direction of the mean, and the length becomes 1 anyhow.
        length = float(np.linalg.norm(self._sum))
        self._vectors.append((self._sum / length if length else self._sum).astype("<f4").tobytes())
        self._sum, self._done = None, 0
        return True

    @property
    def result(self) -> Embeddings | None:
        """None until every input is done."""
        if len(self._vectors) < len(self.inputs):
            return None
        return Embeddings(tuple(self._vectors), len(self._vectors[0]) // 4, self.prompt_tokens)
