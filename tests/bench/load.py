"""
The load that both servers get: streamed completions over plain sockets, so that the client costs little.

The one rule: it is bounded in requests and time, and goes to loopback only.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.parse
from dataclasses import dataclass
from typing import Any

TIMEOUT = 180.0
"""Seconds that one stream may take."""


class StreamFailed(Exception):
    """A stream that was refused, cut, or carried an error."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One answer: seconds to its first token and in all, and its tokens as the server counted them."""

    first: float
    seconds: float
    tokens: int


async def stream(url: str, model: str, prompt: str, max_tokens: int, seed: int) -> Stream:
    """Raises StreamFailed when the answer is anything but a whole stream."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0.8,
        "top_k": 40,
        "seed": seed,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with asyncio.timeout(TIMEOUT):
        return await _post(url, json.dumps(body).encode())


async def _post(url: str, body: bytes) -> Stream:
    address = urllib.parse.urlsplit(url)
    assert address.hostname in ("127.0.0.1", "localhost", "::1")
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(_head(address.netloc, len(body)) + body)
        await writer.drain()
        return await _read(reader, started)
    finally:
        writer.close()


def _head(host: str, length: int) -> bytes:
    lines = [
        "POST /v1/completions HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        "Connection: close",
        f"Content-Length: {length}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


async def _read(reader: asyncio.StreamReader, started: float) -> Stream:
    status = (await reader.readline()).split()
    if status[1:2] != [b"200"]:
        raise StreamFailed((await reader.read(2000)).decode(errors="replace"))
    first, tokens, done = 0.0, 0, False
    async for line in reader:
        if line.startswith(b"data: [DONE]"):
            done = True
        elif line.startswith(b"data: {"):
            event: dict[str, Any] = json.loads(line[6:])
            if "error" in event:
                raise StreamFailed(str(event["error"]))
            first = first or time.perf_counter() - started
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    if not done or not tokens:
        raise StreamFailed("the stream ended early, or did not count its tokens")
    return Stream(first, time.perf_counter() - started, tokens)


async def together(url: str, model: str, count: int, max_tokens: int, round_: int) -> float:
    """Aggregate tokens per second of `count` streams at once; every prompt is another one."""
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                stream(url, model, _prompt(round_, index), max_tokens, index), name=f"stream {index}"
            )
            for index in range(count)
        ]
    return sum(task.result().tokens for task in tasks) / (time.perf_counter() - started)


def _prompt(round_: int, index: int) -> str:
    return f"Story {round_}.{index}: " + "the quick brown fox jumps over the lazy dog and " * 2
