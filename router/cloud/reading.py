"""
An upstream's answer, read with bounds: whole, or event by event.

The one rule: the client gets the upstream's bytes or an error, never an answer that only looks complete.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import httpx2

from router.cloud import events, faults
from router.cloud.calls import CloudAnswer
from router.cloud.events import BadAnswer, Facts, Splitter
from router.cloud.line import Line, Progress
from router.cloud.outgoing import Outgoing
from router.domain.errors import UpstreamBroken, UpstreamError, UpstreamUnavailable

MAX_WHOLE = 64 * 2**20
"""Bytes of an answer that is not streamed: embeddings of many inputs are long."""
MAX_ERROR = 64 * 2**10
"""Bytes of an error's body that are read; the rest is not waited for."""
DRAIN_SECONDS = 0.2
"""How long the end of a stream is waited for after [DONE]: a connection that is read to its end can be used again."""
DONE = b"data: [DONE]\n\n"


@dataclass(slots=True)
class Reading:
    """One response of one upstream, headers already there."""

    line: Line
    request: Outgoing
    response: httpx2.Response
    progress: Progress
    answer: CloudAnswer
    key: str | None
    max_event: int = events.MAX_EVENT
    max_whole: int = MAX_WHOLE

    async def begin(self) -> None:
        """
        Until `answer` has begun: its body is there, or its first event waits in `events`.

        Raises UpstreamRefused and UpstreamUnavailable.
        """
        if not self.response.is_success:
            raise await self._refusal()
        if self.response.headers.get("content-encoding", "identity") != "identity":
            raise self._bad("it is packed, which was not asked for")
        if self.request.stream:
            await self._first_event()
        else:
            await self._whole()

    async def _whole(self) -> None:
        body = await self._body(self.max_whole)
        if len(body) > self.max_whole:
            words = f"{self._name} answers more than {self.max_whole} bytes."
            raise UpstreamUnavailable(words, self._name, "too_large")
        self._note(self._facts(body))
        self.answer.body = body

    async def _first_event(self) -> None:
        if not self.response.headers.get("content-type", "").startswith("text/event-stream"):
            with contextlib.suppress(BadAnswer):
                if error := events.facts_of(await self._excerpt()).error:
                    raise faults.of_error_object(self._name, error, self.key)
            raise self._bad("it was asked for a stream and sent none")
        rest = self._events()
        try:
            first = await self._until_data(rest)
        except BaseException:
            await rest.aclose()
            raise
        self.answer.events = self._from(first, rest)

    async def _until_data(self, events: AsyncGenerator[bytes, None]) -> list[bytes]:
        """The first event with data, after those that say nothing: until then another candidate may take over."""
        held: list[bytes] = []
        size = 0
        while self.progress.phase not in ("idle", "done"):
            held.append(await anext(events))
            size += len(held[-1])
            if size > self.max_event:
                words = f"{self._name} sends events without data."
                raise UpstreamUnavailable(words, self._name, "too_large")
        return held

    async def _from(
        self, first: list[bytes], rest: AsyncGenerator[bytes, None]
    ) -> AsyncGenerator[bytes, None]:
        """From the first event on, whatever breaks is broken: another candidate can no longer take over."""
        async with contextlib.aclosing(rest):
            for event in first:
                yield event
            try:
                async for event in rest:
                    yield event
            except UpstreamUnavailable as error:
                raise UpstreamBroken(error.message, self._name) from error

    async def _events(self) -> AsyncGenerator[bytes, None]:
        """Events that go on to the client. Ends after [DONE] or raises UpstreamUnavailable."""
        splitter = Splitter(self.max_event)
        chunks = self._chunks()
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                for event in self._split(splitter, chunk):
                    data = events.data_of(event)
                    if data is None:
                        continue
                    if data == b"[DONE]":
                        self.progress.phase = "done"
                        yield DONE
                        await _drain(chunks)
                        return
                    facts = self._facts(data)
                    self._note(facts)
                    self._refuse_excess()
                    if not (self.request.drops_usage and facts.usage and not facts.choices):
                        yield event
        said = events.data_of(splitter.rest) == b"[DONE]"  # and closed at once, without the blank line
        if not said and (self.answer.finish is None or splitter.rest.strip()):
            words = f"{self._name} ended its answer in the middle."
            raise UpstreamUnavailable(words, self._name, "cut")
        # Some never say it; the finish_reason was there, so the answer is whole.
        self.progress.phase = "done"
        yield DONE

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        """What is missing behind the end of every answer is not waited for, and no fault."""
        chunks = self.line.chunks(self.request, self.response, self.progress)
        async with contextlib.aclosing(chunks):
            try:
                async for chunk in chunks:
                    yield chunk
            except UpstreamUnavailable:
                if not self.progress.tally.finished:
                    raise

    def _refuse_excess(self) -> None:
        """Raises UpstreamUnavailable when more has passed than was asked for, and more is to come."""
        if self.progress.tally.passed_limit:
            words = f"{self._name} went on beyond the limit of {self.progress.tally.limit} tokens and was cut off."
            raise UpstreamUnavailable(words, self._name, "too_long")

    def _split(self, splitter: Splitter, chunk: bytes) -> list[bytes]:
        try:
            return splitter.feed(chunk)
        except BadAnswer as error:
            raise UpstreamUnavailable(
                f"{self._name} was cut off: {error}.", self._name, "too_large"
            ) from None

    def _facts(self, data: bytes) -> Facts:
        """Raises UpstreamUnavailable when it is no JSON object, or an error in place of an answer."""
        try:
            facts = events.facts_of(data)
        except BadAnswer as error:
            raise self._bad(str(error)) from None
        if facts.error:
            raise faults.of_error_object(self._name, facts.error, self.key)
        return facts

    def _note(self, facts: Facts) -> None:
        if self.progress.tally.note(facts):
            self.progress.hear()
        self.answer.usage = self.progress.tally.told
        self.answer.finish = facts.finish or self.answer.finish
        self.answer.model = facts.model or self.answer.model

    async def _refusal(self) -> UpstreamError:
        body = await self._excerpt()
        headers = dict(self.response.headers)
        return faults.of_status(self._name, self.response.status_code, headers, body, self.key)

    async def _excerpt(self) -> bytes:
        """Of a body that is no answer; what the headers say is enough when it does not come."""
        with contextlib.suppress(UpstreamUnavailable, TimeoutError):
            async with asyncio.timeout(self.line.upstream.timeouts.connect):
                return (await self._body(MAX_ERROR))[:MAX_ERROR]
        return b""

    async def _body(self, most: int) -> bytes:
        """At least the first `most` bytes; more than that is a little more."""
        body = bytearray()
        chunks = self.line.chunks(self.request, self.response, self.progress)
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                body += chunk
                if chunk.strip():
                    self.progress.hear()
                if len(body) > most:
                    break
        return bytes(body)

    def _bad(self, words: str) -> UpstreamUnavailable:
        message = f"{self._name} answers what no OpenAI-compatible endpoint does: {words}."
        return UpstreamUnavailable(message, self._name, "protocol")

    @property
    def _name(self) -> str:
        return self.line.upstream.name


async def _drain(chunks: AsyncGenerator[bytes, None]) -> None:
    with contextlib.suppress(UpstreamUnavailable, TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            await anext(chunks, None)
