"""
Lease, ask, release; a worker that dies before its first word is replaced once, unseen (G10), unless it hung over
this very prompt; and a file that was replaced since the registry was read is read again once.

The one rule: whatever happens, leaving `generate` gives the lease back; after a word nothing is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from router.domain.errors import DoesNotFit, LoadFailed, RegistryInvalid, WorkerCrashed
from router.domain.generation import Delta, EmbeddingRequest, Embeddings, GenerationRequest
from router.domain.models import LocalModel
from router.residency.manager import Lease, ResidencyManager, Worker
from router.telemetry import Metrics, logger

log = logger("routing")
T = TypeVar("T")

GONE_SECONDS = 1.0
"""How long a crashed worker may take to be seen as gone before the request is tried again all the same."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A generation under way, its first delta there already. Times are those of the lease that serves."""

    served_by: str
    model: LocalModel
    queue_ms: float
    load_ms: float
    attempts: int
    deltas: AsyncIterator[Delta]


@dataclass(frozen=True, slots=True)
class EmbeddingAnswer:
    served_by: str
    model: LocalModel
    queue_ms: float
    load_ms: float
    attempts: int
    embeddings: Embeddings


@dataclass(slots=True)
class _Terms:
    """How a request waits for its lease. `wait`: the seconds that are left to all its attempts; None = the registry's."""

    wait: float | None
    priority: int | None

    def waited(self, seconds: float) -> None:
        if self.wait is not None:
            self.wait = max(self.wait - seconds, 0.0)


def _ignore(read: float | None) -> None:
    """For whoever does not want to hear."""


async def _as_it_is(model: LocalModel) -> LocalModel | None:
    return None


class Dispatcher:
    def __init__(
        self,
        residency: ResidencyManager,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        reread: Callable[[LocalModel], Awaitable[LocalModel | None]] = _as_it_is,
    ) -> None:
        """`reread`: the model as its file is now, or None where it is the same; may raise RegistryInvalid."""
        self._reread = reread
        self._residency = residency
        self._metrics = metrics
        self._clock = clock

    @contextlib.asynccontextmanager
    async def generate(
        self,
        model: LocalModel,
        request: GenerationRequest,
        wait: float | None = None,
        priority: int | None = None,
        on_prompt: Callable[[float | None], None] = _ignore,
    ) -> AsyncIterator[Answer]:
        """
        Answer `request`; leaving the context cancels what still runs and gives the lease back.

        `wait`: the most seconds to wait for a lease (None = the registry's), a second attempt's included;
        `priority`: None = the model's. `on_prompt` hears how much of the prompt has been read, 0 to 1, and None when
        the request begins to wait for a lease.
        Raises Unavailable kinds, InvalidRequest and ContextOverflow; the deltas raise WorkerCrashed rather than end early.
        """

        began = self._clock()
        terms = _Terms(wait, priority)

        async def attempt(current: LocalModel, number: int) -> tuple[contextlib.AsyncExitStack, Answer]:
            return await self._begin(current, request, terms, on_prompt, number)

        stack, answer = await self._with_its_file(model, attempt)
        self._metrics.first_token.observe(self._clock() - began)
        async with stack:
            yield answer

    async def embed(
        self,
        model: LocalModel,
        request: EmbeddingRequest,
        wait: float | None = None,
        priority: int | None = None,
    ) -> EmbeddingAnswer:
        """One vector per input. Raises like `generate`; embedding twice does no harm."""

        terms = _Terms(wait, priority)

        async def attempt(current: LocalModel, number: int) -> EmbeddingAnswer:
            async with contextlib.AsyncExitStack() as stack:
                lease = await self._lease(stack, current, terms)
                async with _crash_seen_by_all(lease.worker):
                    embeddings = await lease.worker.embed(request)
                self._metrics.tokens.labels(current.name, "prompt").inc(embeddings.prompt_tokens)
                return EmbeddingAnswer(*_served(lease, current), number, embeddings)

        return await self._with_its_file(model, attempt)

    async def load(self, model: LocalModel) -> None:
        """An operator's load, of the file that is there now. Raises the kinds of Unavailable."""

        async def attempt(current: LocalModel, number: int) -> None:
            await self._residency.load(current)

        await self._with_its_file(model, attempt)

    async def latest(self, model: LocalModel) -> LocalModel:
        """The model; as its file is now, if that is another one than when the registry was read."""
        with contextlib.suppress(RegistryInvalid):
            return await self._reread(model) or model
        return model

    async def _with_its_file(
        self, model: LocalModel, attempt: Callable[[LocalModel, int], Awaitable[T]]
    ) -> T:
        """A model that cannot be loaded, and whose file was replaced meanwhile, is read again and tried once more."""
        try:
            return await self._twice(model, attempt)
        except (LoadFailed, DoesNotFit):
            if (latest := await self.latest(model)) is model:
                raise
        return await self._twice(latest, attempt)

    async def _twice(self, model: LocalModel, attempt: Callable[[LocalModel, int], Awaitable[T]]) -> T:
        try:
            return await attempt(model, 1)
        except WorkerCrashed as crash:
            if not crash.repeatable:
                raise
            log.warning(
                "the worker died before its first word; trying once more", model=model.name, reason=str(crash)
            )
        return await attempt(model, 2)

    async def _begin(
        self,
        model: LocalModel,
        request: GenerationRequest,
        terms: _Terms,
        on_prompt: Callable[[float | None], None],
        number: int,
    ) -> tuple[contextlib.AsyncExitStack, Answer]:
        async with contextlib.AsyncExitStack() as stack:
            on_prompt(None)
            lease = await self._lease(stack, model, terms)
            on_prompt(0.0)
            generating = contextlib.aclosing(lease.worker.generate(request, on_prompt))
            deltas = await stack.enter_async_context(generating)
            async with _crash_seen_by_all(lease.worker):
                first = await anext(deltas, None)
            if first is None:
                raise WorkerCrashed(f"{model.name} ended its answer without a word.")
            whole = await stack.enter_async_context(contextlib.aclosing(self._whole(model, first, deltas)))
            return stack.pop_all(), Answer(*_served(lease, model), number, whole)

    async def _lease(self, stack: contextlib.AsyncExitStack, model: LocalModel, terms: _Terms) -> Lease:
        began = self._clock()
        try:
            return await stack.enter_async_context(self._residency.lease(model, terms.wait, terms.priority))
        finally:
            terms.waited(self._clock() - began)

    async def _whole(
        self, model: LocalModel, first: Delta, rest: AsyncIterator[Delta]
    ) -> AsyncGenerator[Delta, None]:
        """All deltas, counted. Ends after the final one or raises: an answer is never cut silently (G2)."""
        sampled = 0
        at = self._clock()
        delta: Delta | None = first
        try:
            while delta is not None:
                sampled += delta.tokens
                if delta.usage is not None:
                    sampled = delta.usage.completion_tokens
                    self._count_prompt(model, delta)
                yield delta
                if delta.finish_reason is not None:
                    return
                delta = await anext(rest, None)
                before, at = at, self._clock()
                if delta is not None and delta.tokens:
                    self._metrics.inter_token.observe((at - before) / delta.tokens)
            raise WorkerCrashed(f"{model.name} stopped in the middle of its answer.")
        finally:
            self._metrics.tokens.labels(model.name, "completion").inc(sampled)

    def _count_prompt(self, model: LocalModel, delta: Delta) -> None:
        if delta.usage is not None:
            self._metrics.tokens.labels(model.name, "prompt").inc(delta.usage.prompt_tokens)
            self._metrics.prompt_cache_tokens.labels(model.name).inc(delta.usage.cached_tokens)


@contextlib.asynccontextmanager
async def _crash_seen_by_all(worker: Worker) -> AsyncIterator[None]:
    """Streams of a dying worker fail before residency hears of it: a second try would get it again."""
    try:
        yield
    except WorkerCrashed:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GONE_SECONDS):
                await worker.wait_gone()
        await asyncio.sleep(0)  # residency was woken before us, or in this very tick
        raise


def _served(lease: Lease, model: LocalModel) -> tuple[str, LocalModel, float, float]:
    return lease.instance, model, lease.queue_seconds * 1000, lease.load_seconds * 1000
