"""
A request's body: received, weighed, decoded.

The one rule: nothing is decoded that could stall the loop. Megabytes of `[],[],[]` take a second to decode and
hundreds of megabytes to hold, the same megabytes of text milliseconds; so values are counted first, in small
pieces between which the loop runs (G20).
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

from starlette.requests import Request

from router.api import wire
from router.api.errors import BodyTooLarge

T = TypeVar("T")

SMALL = 256 * 2**10
"""Bytes; a body up to this size is decoded in milliseconds whatever it holds."""
MOST_MEMBERS = 600_000
"""Commas: the token ids of the longest prompt are 524,288."""
MOST_CONTAINERS = 20_000
"""Objects and lists: messages, parts, tools."""
MOST_KEYS = 2**16
_PIECE = 64 * 2**10


async def read(request: Request, kind: type[T]) -> T:
    """The whole body as a `kind`. Raises InvalidRequest. The bytes are not kept."""
    return wire.decode(await receive(request), kind)


async def receive(request: Request) -> bytes:
    """The whole body, weighed. Whoever waits should not hold on to it."""
    body = b"".join([piece async for piece in request.stream()])
    await weigh(body)
    return body


async def weigh(body: bytes) -> None:
    """Raises BodyTooLarge. A body that is no JSON passes, or does not: whoever decodes it says so."""
    if len(body) <= SMALL:
        return
    count = _Count()
    for start in range(0, len(body), _PIECE):
        count.read(body[start : start + _PIECE])
        if count.too_many():
            raise BodyTooLarge(
                "The body holds too many values: at most "
                f"{MOST_MEMBERS} list members, {MOST_CONTAINERS} objects and lists, {MOST_KEYS} fields."
            )
        await asyncio.sleep(0)


class _Count:
    """Of what stands outside of strings, as far as the body was read."""

    def __init__(self) -> None:
        self._members = self._containers = self._keys = 0
        self._in_string = False
        self._escaping = False

    def too_many(self) -> bool:
        return self._members > MOST_MEMBERS or self._containers > MOST_CONTAINERS or self._keys > MOST_KEYS

    def read(self, piece: bytes) -> None:
        if self._escaping:  # the last piece ended in a backslash that escapes what comes now
            piece = b" " + piece[1:]
        # Pairs first: what is then left before a quote escapes it.
        piece = piece.replace(b"\\\\", b"  ").replace(b'\\"', b"  ")
        self._escaping = piece.endswith(b"\\")
        parts = piece.split(b'"')
        outside = b"".join(parts[self._in_string :: 2])
        self._in_string ^= len(parts) % 2 == 0
        self._members += outside.count(b",")
        self._containers += outside.count(b"{") + outside.count(b"[")
        self._keys += outside.count(b":")
