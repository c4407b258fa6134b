"""
`python -m tests.bench.relay`: what the gateway adds to a cloud answer, beside the upstream asked directly.

The one rule: both are asked in turn by the same client, and a gateway without what it adds is the upstream itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import uvloop

from tests.bench import servers
from tests.bench.load import StreamFailed

ADDED_MS = 2.0
"""What the gateway may add to the first token, in the median."""
GAP_MS = 60.0
"""What 99 of 100 gaps between tokens must stay under; they are 50 ms when nothing is in the way."""
BUSY_MS = 54.0
PACE = 0.05
RAMP = 0.01
"""Seconds between the starts of two streams."""
STREAMS = 200


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=STREAMS)
    parser.add_argument("--tokens", type=int, default=120, help="of each of the streams")
    parser.add_argument("--requests", type=int, default=200, help="one after the other, for the first token")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


@dataclass(frozen=True, slots=True)
class Server:
    """`model`: what the client calls what the endpoint serves."""

    name: str
    port: int
    model: str


@dataclass(frozen=True, slots=True)
class Stream:
    """Seconds from the request to its first token, and between its tokens."""

    first: float
    gaps: tuple[float, ...]


class Connection:
    """One connection that is kept for many requests: a client's own cost is not what is measured."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def __aenter__(self) -> Connection:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def stream(self, tokens: int, pause: float) -> Stream:
        """Raises StreamFailed when the answer is anything but a whole stream."""
        began = time.perf_counter()
        self._writer.write(request(self._server.model, tokens, pause))
        times = [at async for at in self._tokens()]
        if len(times) != tokens:
            raise StreamFailed(f"{self._server.name}: {len(times)} tokens in place of {tokens}")
        pairs = itertools.pairwise(times)
        return Stream(times[0] - began, tuple(later - sooner for sooner, later in pairs))

    async def _tokens(self) -> Any:
        status = await self._reader.readline()
        if b" 200 " not in status:
            raise StreamFailed(f"{self._server.name}: {(await self._reader.read(2000))!r}")
        while not (line := await self._reader.readline()).startswith(b"data: [DONE]"):
            if not line or line.startswith(b'data: {"error"'):
                raise StreamFailed(f"{self._server.name}: the stream broke off {line!r}")
            if b'"word "' in line:
                yield time.perf_counter()
        await self._reader.readuntil(b"0\r\n\r\n")


def request(model: str, tokens: int, pause: float) -> bytes:
    asked = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": tokens}
    body = json.dumps({**asked, "pause": pause, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Type: application/json\r\n\r\n".encode() + body


async def first_tokens(them: Sequence[Server], count: int) -> dict[str, list[float]]:
    """Seconds to the first token, in turn, so that a busy machine hurts all alike."""
    found: dict[str, list[float]] = {server.name: [] for server in them}
    async with contextlib.AsyncExitStack() as stack:
        lines = {server.name: await stack.enter_async_context(Connection(server)) for server in them}
        for number in range(count + 20):
            for name, line in lines.items():
                stream = await line.stream(3, 0.0)
                if number >= 20:
                    found[name].append(stream.first)
    return found


async def gaps(server: Server, streams: int, tokens: int) -> list[float]:
    """Seconds between the tokens of all streams at once."""

    async def one() -> Stream:
        async with Connection(server) as line:
            return await line.stream(tokens, PACE)

    async with asyncio.TaskGroup() as tasks:
        running = []
        for number in range(streams):
            running.append(tasks.create_task(one(), name=f"stream-{number}"))
            # People do not ask in the same millisecond.
            await asyncio.sleep(RAMP)
    return [gap for task in running for gap in task.result().gaps]


async def measure(them: Sequence[Server], chosen: argparse.Namespace) -> dict[str, Any]:
    firsts = await first_tokens(them, chosen.requests)
    base = statistics.median(firsts[them[0].name])
    rows = {}
    for server in them:
        spent = processor_seconds(server)
        between = await gaps(server, chosen.streams, chosen.tokens)
        spent = processor_seconds(server) - spent
        first = statistics.median(firsts[server.name])
        rows[server.name] = {
            "first_ms": first * 1e3,
            "added_ms": (first - base) * 1e3,
            "gap_p99_ms": statistics.quantiles(between, n=100)[98] * 1e3,
            "gap_max_ms": max(between) * 1e3,
            "cpu_a_token_ms": spent * 1e3 / (chosen.streams * chosen.tokens),
        }
    return {"streams": chosen.streams, "tokens": chosen.tokens, "rows": rows}


def processor_seconds(server: Server) -> float:
    """What the process behind the port has computed so far: unlike times it does not mind a busy machine."""
    mine = (child for child in psutil.Process().children() if str(server.port) in child.cmdline())
    return sum(sum(child.cpu_times()[:2]) for child in mine)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[list[Server]]:
    """The endpoint, and a gateway before it whose one upstream is free and whose other one has a price."""
    port = servers.free_port()
    command = [sys.executable, "-m", "tests.bench.endpoint", str(port)]
    with servers.running(command, port, "/v1/models", folder / "endpoint.log") as url:
        (folder / "registry.yaml").write_text(json.dumps(registry(url)))
        gate = servers.free_port()
        serve = ["-m", "router", "serve", "--registry", str(folder / "registry.yaml"), "--port", str(gate)]
        ours = [sys.executable, *serve, "--backend", "echo"]
        with servers.running(ours, gate, "/livez", folder / "gateway.log"):
            yield [
                Server("direct", port, "m"),
                Server("free", gate, "free"),
                Server("priced", gate, "priced"),
            ]


def registry(url: str) -> dict[str, Any]:
    upstream = {"base_url": f"{url}/v1", "model": "m", "allow_private": True}
    price = {"price": {"input": 1, "output": 1}, "budget": {"day": 100_000}}
    return {
        "version": 1,
        "models": {"none": {"path": "none.gguf"}},
        "cloud": {"free": upstream, "priced": {**upstream, **price}},
    }


def verdict(found: dict[str, Any]) -> list[str]:
    """A line a server, and a warning where the machine was too busy to judge by."""
    lines = [f"{found['streams']} streams of {1 / PACE:.0f} tok/s; the first token of one request at a time"]
    for name, row in found["rows"].items():
        text = ", ".join(
            f"{what.removesuffix('_ms').replace('_', ' ')} {ms:.2f} ms" for what, ms in row.items()
        )
        if name == "direct":
            lines.append(f"{name}: {text}")
            continue
        good = row["added_ms"] <= ADDED_MS and row["gap_p99_ms"] <= GAP_MS
        wanted = f"(at most {ADDED_MS:g} added and {GAP_MS:g} at p99 wanted)"
        lines.append(f"{'PASS' if good else 'FAIL'}: {name}: {text} {wanted}")
    if found["rows"]["direct"]["gap_p99_ms"] > BUSY_MS:
        lines.append(
            f"This machine is busy: without a gateway, p99 should be under {BUSY_MS:g} ms. Measure again."
        )
    return lines


def main() -> int:
    chosen = parse()
    with tempfile.TemporaryDirectory(prefix="router-relay-") as folder, running(Path(folder)) as them:
        found = uvloop.run(measure(them, chosen))
    print(json.dumps(found, indent=1) if chosen.json else "\n".join(verdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
