"""
`python -m tests.bench.soak`: thousands of swaps among six small models, under traffic, in one gateway.
With `--hostile` another one: see `tests.bench.hostile`.

The one rule: the gateway is a process of its own and is looked at from outside; only it is judged.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from router import demo
from router.registry import loader
from router.settings import cache_home
from router.sizing import devices
from tests.bench import at_rest, hostile, hostile_verdict, load, servers, soak_verdict
from tests.bench.soak_verdict import Record

CONTEXTS = (512, 1024)
"""Each file is two models: another context is another process."""
CLIENTS = 3
LOOK_SECONDS = 0.25
TELL_SECONDS = 15.0
STALL_SECONDS = 120.0


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hostile", action="store_true", help="kills, edits and a log that is hardly read")
    parser.add_argument("--seconds", type=float, default=600.0, help="with --hostile: how long (600)")
    parser.add_argument("--swaps", type=int, default=2000)
    parser.add_argument("--models", type=Path, nargs="+", help="GGUFs; the demo models if not given")
    parser.add_argument("--out", type=Path, help="write the JSON there, too")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    if chosen.swaps < 1:
        parser.error("--swaps: at least one")
    if chosen.seconds <= 0:
        parser.error("--seconds: more than none")
    return chosen


class Soak:
    """One gateway, its log, and what was seen of it."""

    def __init__(
        self, url: str, gateway: psutil.Process, log: Path, models: Sequence[str], seed: int
    ) -> None:
        self.record = Record()
        self._url = url
        self._gateway = gateway
        self._log = log
        self._read = 0
        self._models = models
        self._random = random.Random(seed)
        self._told = self._moved = self._began = time.monotonic()

    async def run(self, swaps: int) -> None:
        """Warm up, look, go on, look again. Raises RuntimeError when nothing moves any more."""
        for until in (min(soak_verdict.WARM_UP, max(swaps // 3, 1)), swaps):
            async with self._traffic():
                while len(self.record.seconds) < until:
                    await asyncio.sleep(LOOK_SECONDS)
                    self._look()
                    self._tell(swaps)
            self.record.quiet.append(await at_rest.count(self._url, self._gateway))
            self._moved = time.monotonic()
            self._look()

    # Clients ----------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _traffic(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                clients.create_task(self._client(stop), name=f"client {number}")
            try:
                yield
            finally:
                stop.set()

    async def _client(self, stop: asyncio.Event) -> None:
        """One answer after another, each of another model than the last."""
        last = ""
        while not stop.is_set():
            last = self._random.choice([name for name in self._models if name != last])
            try:
                await load.stream(self._url, last, "Once upon a time", 4, self._random.randrange(1000))
                self.record.answers += 1
            except (load.StreamFailed, OSError, TimeoutError) as error:
                self.record.failures.append(f"{last}: {error or type(error).__name__}")
                await asyncio.sleep(0.5)

    # What is seen -----------------------------------------------------------------------------------------

    def _look(self) -> None:
        fresh = list(self._loads())
        self.record.seconds += fresh
        self.record.memory.append((len(self.record.seconds), self._gateway.memory_info().rss))
        now = time.monotonic()
        self._moved = now if fresh else self._moved
        if now - self._moved > STALL_SECONDS:
            raise RuntimeError(
                f"no swap for {STALL_SECONDS:.0f} s; the end of {self._log}:\n{self._end_of_log()}"
            )

    def _loads(self) -> Iterator[float]:
        """Seconds of each load that the gateway has logged since the last look."""
        with self._log.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._read += len(line)
                if b'"ready"' in line:
                    entry = json.loads(line)
                    if entry.get("event") == "ready" and "seconds" in entry:
                        yield float(entry["seconds"])

    def _end_of_log(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-10:])

    def _tell(self, swaps: int) -> None:
        now = time.monotonic()
        if now - self._told < TELL_SECONDS:
            return
        self._told = now
        done = len(self.record.seconds)
        rate = done / (now - self._began)
        left = (swaps - done) / rate / 60 if rate else float("inf")
        recent = soak_verdict.percentile(self.record.seconds[-soak_verdict.WINDOW :], 0.99)
        memory = self.record.memory[-1][1] / 2**20
        print(
            f"{done:5d} of {swaps} swaps, {rate:.2f}/s, {left:.0f} min left; gateway {memory:.2f} MiB; "
            f"p99 {recent:.3f} s; {self.record.answers} answers, {len(self.record.failures)} failed",
            file=sys.stderr,
            flush=True,
        )


# The gateway ------------------------------------------------------------------------------------------------


def registry_file(path: Path, files: Sequence[Path], budget: int) -> list[str]:
    """Write a registry of every file with every context; the names of its models."""
    models = {
        f"{file.stem}-{context}": {"path": str(file.absolute()), "context": context}
        for context in CONTEXTS
        for file in files
    }
    document = {
        "version": 1,
        "devices": {"auto": {"budget": budget}},
        "limits": {"hold": "0s"},
        "defaults": {"slots": 2, "ttl": "never"},
        "models": models,
    }
    path.write_text(json.dumps(document))
    return list(models)


def budget_for_two(folder: Path, files: Sequence[Path]) -> int:
    """Bytes that hold the largest model, and two of the smaller ones."""
    probe = folder / "probe.yaml"
    registry_file(probe, files, 64 * 2**30)
    models = loader.load(probe, devices.detect(), cache_home()).models.values()
    sizes = sorted(model.footprint.total for model in models)
    return max(sizes[-1], sizes[0] + sizes[1]) + sizes[0] // 4


@contextlib.contextmanager
def gateway(
    folder: Path, files: Sequence[Path], *flags: str
) -> Iterator[tuple[str, psutil.Process, list[str]]]:
    registry = folder / "registry.yaml"
    names = registry_file(registry, files, budget_for_two(folder, files))
    port = servers.free_port()
    command = [
        sys.executable,
        "-m",
        "router",
        "serve",
        "--registry",
        str(registry),
        "--port",
        str(port),
        "--json",
    ]
    with servers.running([*command, *flags], port, "/readyz", folder / "gateway.log") as url:
        (process,) = [p for p in psutil.Process().children() if str(port) in p.cmdline()]
        yield url, process, names


def run(chosen: argparse.Namespace, *flags: str) -> dict[str, Any]:
    files = chosen.models or list(demo.fetch(cache_home()).values())
    with tempfile.TemporaryDirectory(prefix="router-soak-") as name:
        folder = Path(name)
        with gateway(folder, files, *flags) as (url, process, models):
            soak = Soak(url, process, folder / "gateway.log", models, chosen.seed)
            asyncio.run(soak.run(chosen.swaps))
    checks = soak_verdict.judge(soak.record, chosen.swaps)
    return soak_verdict.facts(soak.record, checks)


def show(found: dict[str, Any]) -> None:
    seconds = found["swap_seconds"]
    print(
        f"\n{found['swaps']} swaps, {found['answers']} answers; a load p50 {seconds['p50']:.3f} s, ", end=""
    )
    print(f"p99 {seconds['p99']:.3f} s; at rest: {found['quiet'][-1]}")
    for check in found["checks"]:
        print(soak_verdict.Check(**check).line())
    print("passed" if found["passed"] else "FAILED")


def main() -> int:
    chosen = parse()
    found = hostile.run(chosen) if chosen.hostile else run(chosen)
    text = json.dumps(found, indent=1)
    if chosen.out is not None:
        chosen.out.write_text(text + "\n")
    if chosen.json:
        print(text)
    elif chosen.hostile:
        print("\n".join(hostile_verdict.table(found)))
    else:
        show(found)
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
