"""
The cloud as the rooms above see it: one call to one upstream, begun or refused.

The one rule: whatever happens to a call, its money is settled once and its connection is given back.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Self

import httpx2
import msgspec

from router.cloud.calls import CloudAnswer, CloudCall
from router.domain.errors import PolicyRefused, UpstreamUnavailable
from router.domain.upstreams import Upstream


class Cloud:
    """
    Owns connections, breakers and the record of spending. `async with Cloud(...) as cloud`.

    Breakers and spending go by the upstream's name and outlive registry edits.
    """

    def __init__(self) -> None:
        self._http = httpx2.AsyncClient(trust_env=False, follow_redirects=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    def reconcile(self, upstreams: Mapping[str, Upstream]) -> None:
        """The whole set after each registry edit: connections, breakers and series of the others are let go."""

    @contextlib.asynccontextmanager
    async def open(self, upstream: Upstream, call: CloudCall) -> AsyncIterator[CloudAnswer]:
        """
        Begin an answer; leaving the context closes the connection to the upstream, which stops it generating.

        Before an answer has begun it raises what `domain.errors` lists under UpstreamError; the next candidate may
        be tried after UpstreamUnavailable, OverBudget and SpendUnknown, never after UpstreamRefused or PolicyRefused.
        The events raise UpstreamBroken. Retries against this one upstream are done in here.
        """
        if call.private:
            raise PolicyRefused("This request may not leave the machine (cloud: never).", upstream.name)
        body = msgspec.json.encode({**call.body, "model": upstream.model})
        try:
            answer = await self._http.post(f"{upstream.base_url}/{call.path}", content=body)
        except httpx2.HTTPError as error:
            message = f"{upstream.name} cannot be reached."
            raise UpstreamUnavailable(message, upstream.name, "connect") from error
        yield CloudAnswer(answer.status_code, upstream.name, reserved=0, body=answer.content, cost=0)
