"""
`python -m tests.bench.endpoint PORT`: an upstream that streams as fast, or as slowly, as its request says.

The one rule: it costs little and keeps time by the clock, so that what a gateway adds can be seen.
"""

from __future__ import annotations

import asyncio
import sys
import time

import uvicorn

from tests.cloud.endpoint import Endpoint, Seen, Send, chunk, end, good, more, start_stream


async def paced(seen: Seen, send: Send) -> None:
    """`max_tokens` words, one every `pause` seconds (a field that no real endpoint has)."""
    if seen.method == "GET":
        await good()(seen, send)
        return
    words, pause = seen.body.get("max_tokens", 1), seen.body.get("pause", 0)
    await start_stream(send)
    began = time.monotonic()
    for number in range(1, words + 1):
        if pause:
            await asyncio.sleep(max(0.0, began + number * pause - time.monotonic()))
        await more(send, chunk("m", {"content": "word "}))
    await more(send, chunk("m", {}, "stop"))
    await end(send, b"data: [DONE]\n\n")


class Forgetful(Endpoint):
    """Remembers no request: there are many."""

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        await super().__call__(scope, receive, send)
        self.seen.clear()


if __name__ == "__main__":
    uvicorn.run(
        Forgetful(paced), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False
    )
