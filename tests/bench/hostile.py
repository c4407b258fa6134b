"""
`python -m tests.bench.soak --hostile`: a gateway whose log is hardly read, whose workers are killed, whose registry
is saved again and again, under streams of which some are left.

In the warm-up so much is logged that lines must be dropped; then the log is emptied, and from there on all is kept.

The one rule: the gateway is a process of its own; only its own workers are killed, by their process ids.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import psutil
from prometheus_client.parser import text_string_to_metric_families

from router import demo
from router.registry import loader
from router.settings import cache_home
from router.sizing import devices
from tests.bench import at_rest, hostile_clients, servers
from tests.bench.hostile_clients import PackageClient, PlainClient, Visitor
from tests.bench.hostile_edits import Edits
from tests.bench.hostile_verdict import WARM_UP, Record, Sample, facts

KILL_EVERY = 5.0
SAVE_EVERY = 2.0
READ_EVERY = 1.0
"""Seconds a line of the log."""
LOOK_EVERY = 1.0
PROBE_EVERY = 0.5
TELL_EVERY = 10.0
STALL_SECONDS = 60.0
"""/livez silent for so long: the run is given up."""
ANSWER_SECONDS = 20.0
"""What an operator's call may take on a machine with other work."""
LAST_SECONDS = 60.0
"""What the requests under way may take when the time is over: max_wait is 40 s."""
APPLY_SECONDS = 5.0
"""What an edit may take to be in force."""
DROPPED = "router_log_lines_dropped_total"
END_SECONDS = 60.0
"""From SIGTERM to the exit; the drain time is 30 s."""


Job = tuple[Callable[[], Awaitable[None]], float]
"""What is done again and again, and the seconds between."""


class SlowLog:
    """The reader of the gateway's log: one line a second, or at once while it hurries."""

    def __init__(self, pipe: int) -> None:
        self.lines: list[bytes] = []
        self._pipe = pipe
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._read, name="read-log", daemon=True)
        self._thread.start()

    def hurry(self) -> None:
        self._hurry.set()

    def slow_down(self) -> None:
        self._hurry.clear()

    def join(self) -> None:
        self._thread.join(ANSWER_SECONDS)

    def labels(self) -> dict[str, str]:
        """Request id -> finish label. A line that was cut by the end is passed over."""
        found = {}
        for line in self.lines:
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if entry.get("event") == "request" and entry.get("finish"):
                    found[entry["request"]] = entry["finish"]
        return found

    def _read(self) -> None:
        line = bytearray()
        while piece := os.read(self._pipe, 2**16 if self._hurry.is_set() else 1):
            line += piece
            if b"\n" in piece:
                *whole, rest = bytes(line).split(b"\n")
                self.lines += whole
                line = bytearray(rest)
                self._hurry.wait(READ_EVERY)


class Hostile:
    """One run against one gateway."""

    def __init__(
        self,
        url: str,
        process: psutil.Process,
        log: SlowLog,
        registry: Path,
        edits: Edits,
        chosen: argparse.Namespace,
    ) -> None:
        self.record = Record(chosen.seconds)
        self._url = url
        self._process = process
        self._log = log
        self._registry = registry
        self._edits = edits
        self._random = random.Random(f"kills {chosen.seed}")
        self._clock = hostile_clients.clock()
        self._stop = asyncio.Event()
        self._heard = 0.0
        """When /livez last answered."""
        told = (url, edits.names, chosen.seed, self._clock)
        self._clients = [PackageClient("package", *told), PlainClient("plain", *told)]
        self._visitor = Visitor("visitor", *told)
        self._everybody = (*self._clients, self._visitor)

    async def run(self) -> None:
        """A warm-up, a rest, the other part of the time, a rest; what it finds is in the record."""
        warm_up = min(WARM_UP, self.record.asked_seconds / 3)
        await self._disturbed(warm_up, (self._chatter, 0.0))
        await self._rest()
        await self._disturbed(self.record.asked_seconds - warm_up)
        await self._rest()
        with contextlib.suppress(httpx2.HTTPError):
            await self._final_figures()
        for client in self._clients:
            self.record.requests += client.seen
        self.record.visits += self._visitor.seen

    async def _rest(self) -> None:
        if self.record.stalled:
            return
        self._log.hurry()
        try:
            self.record.rest.append(await at_rest.count(self._url, self._process))
        except (OSError, psutil.NoSuchProcess) as error:
            self.record.stalled = f"it did not come to rest: {error}"
        self._log.slow_down()

    def _operator(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url=self._url, timeout=ANSWER_SECONDS, trust_env=False)

    async def _disturbed(self, seconds: float, *more: Job) -> None:
        """Clients, kills, edits and looks side by side, for so long or until the gateway is silent."""
        if self.record.stalled:
            return
        self._stop.clear()
        began = self._heard = self._clock()
        async with self._operator() as self._http, asyncio.TaskGroup() as tasks:
            for client in self._everybody:
                tasks.create_task(client.run(self._stop), name=client.name)
            for what, every in (
                (self._probe, PROBE_EVERY),
                (self._kill, KILL_EVERY),
                (self._save, SAVE_EVERY),
                (self._look, LOOK_EVERY),
                (self._tell, TELL_EVERY),
                *more,
            ):
                tasks.create_task(self._again(what, every), name=what.__name__)
            while self._clock() - began < seconds and not self.record.stalled:
                await asyncio.sleep(0.1)
            self.record.seconds += self._clock() - began
            self._stop.set()
            until = self._clock() + (0 if self.record.stalled else LAST_SECONDS)
            while self._clock() < until and any(client.busy for client in self._everybody):
                await asyncio.sleep(0.1)
            for client in self._everybody:
                client.give_up()

    async def _again(self, what: Callable[[], Awaitable[None]], every: float) -> None:
        """Call it every so many seconds; an operator's call that fails or is late is not what is judged."""
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), every)
                return
            with contextlib.suppress(httpx2.HTTPError, psutil.NoSuchProcess):
                await what()

    # What is done to it -----------------------------------------------------------------------------------

    async def _kill(self) -> None:
        """One worker, any of those that hold a model."""
        running = (await self._http.get("/running")).json()["running"]
        pids = {entry["pid"] for entry in running if entry.get("pid")}
        mine = sorted(pids & {child.pid for child in self._process.children()})
        if mine:
            os.kill(self._random.choice(mine), signal.SIGKILL)
            self.record.kills.append(self._clock())

    async def _chatter(self) -> None:
        """One more line in the log, and a long one."""
        await self._http.get(f"/v1/models/{'x' * 180}")

    async def _save(self) -> None:
        text, good = self._edits.next()
        _write(self._registry, text)
        self.record.saves += good
        self.record.broken_saves += not good

    # What is seen of it -----------------------------------------------------------------------------------

    async def _probe(self) -> None:
        asked = self._clock()
        try:
            await self._http.get("/livez")
        except httpx2.HTTPError:
            self.record.silent += 1
            if self._clock() - self._heard > STALL_SECONDS:
                self.record.stalled = f"/livez has not answered for {self._clock() - self._heard:.0f} s"
            return
        self._heard = self._clock()
        self.record.livez.append(self._heard - asked)

    async def _look(self) -> None:
        memory, files = self._process.memory_info().rss, self._process.num_fds()
        sample = Sample(self._clock(), memory, files, len(self._process.children()))
        self.record.samples.append(sample)

    async def _tell(self) -> None:
        if not self.record.samples:
            return
        last = self.record.samples[-1]
        seen = [seen.end.value for client in self._everybody for seen in client.seen]
        ends = ", ".join(f"{end} {count}" for end, count in sorted(Counter(seen).items()))
        print(
            f"{self._clock():5.0f} of {self.record.asked_seconds:.0f} s: {ends}; {len(self.record.kills)} kills; "
            f"{self.record.saves + self.record.broken_saves} saves; gateway {last.memory / 2**20:.1f} MiB, "
            f"{last.files} files, {last.children} children; /livez silent {self.record.silent} times",
            file=sys.stderr,
            flush=True,
        )

    async def _final_figures(self) -> None:
        """The last good edit is saved and given its time; then the counters are read."""
        if self.record.stalled:
            return
        _write(self._registry, self._edits.text)
        await asyncio.sleep(APPLY_SECONDS)
        async with self._operator() as http:
            listed = (await http.get("/v1/models")).json()["data"]
            found = figures((await http.get("/metrics")).text, self._edits.names)
        self.record.wrong_models = sorted({entry["id"] for entry in listed} ^ self._edits.expected)
        self.record.counters = found.finishes
        self.record.restarts = found.total["router_worker_restarts_total"]
        self.record.applied = found.reloads["applied"]
        self.record.refused = found.reloads["refused"]
        self.record.dropped = found.total.get(DROPPED)


def _write(path: Path, text: str) -> None:
    """As an editor does: aside, then renamed over."""
    aside = path.with_suffix(".tmp")
    aside.write_text(text)
    aside.replace(path)


@dataclass(slots=True)
class Figures:
    """What is used of /metrics."""

    finishes: dict[str, float] = field(default_factory=partial(defaultdict, float))
    """Finish label -> requests for the models that are always there."""
    reloads: dict[str, float] = field(default_factory=partial(defaultdict, float))
    total: dict[str, float] = field(default_factory=partial(defaultdict, float))
    """Name -> the sum of all its series."""


def figures(text: str, models: Sequence[str]) -> Figures:
    found = Figures()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.total[sample.name] += sample.value
            if sample.name == "router_requests_total" and sample.labels["model"] in models:
                found.finishes[sample.labels["finish"]] += sample.value
            elif sample.name == "router_registry_reloads_total":
                found.reloads[sample.labels["outcome"]] += sample.value
    return found


# The gateway ------------------------------------------------------------------------------------------------


def budget_for_two(folder: Path, files: Sequence[Path]) -> int:
    """Bytes that hold the largest model, and two of the smaller ones."""
    probe = folder / "probe.yaml"
    probe.write_text(Edits(files, 64 * 2**30, 0).text)
    models = loader.load(probe, devices.detect(), cache_home()).models.values()
    sizes = sorted(model.footprint.total for model in models)
    return max(sizes[-1], sizes[0] + sizes[1]) + sizes[0] // 4


@contextlib.contextmanager
def gateway(
    folder: Path, registry: Path, *flags: str
) -> Iterator[tuple[str, subprocess.Popen[bytes], SlowLog]]:
    """`router serve` with its log in a pipe that is read at one line a second; ended whatever happens."""
    port = servers.free_port()
    command = [sys.executable, "-m", "router", "serve", "--registry", str(registry), "--port", str(port)]
    environment = {**os.environ, "ROUTER_STATE": str(folder)}
    process = subprocess.Popen(
        [*command, "--json", *flags],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
    )
    assert process.stderr is not None
    log = SlowLog(process.stderr.fileno())
    try:
        servers.wait(process, f"http://127.0.0.1:{port}/readyz", lambda: b"\n".join(log.lines).decode())
        yield f"http://127.0.0.1:{port}", process, log
    finally:
        log.hurry()
        if process.poll() is None:
            process.kill()
        process.wait()
        log.join()
        process.stderr.close()


def end(process: subprocess.Popen[bytes]) -> int | None:
    """Its exit status after SIGTERM; None if it does not end."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(END_SECONDS)
    return None


def run(chosen: argparse.Namespace, *flags: str) -> dict[str, Any]:
    files = chosen.models or list(demo.fetch(cache_home()).values())
    with tempfile.TemporaryDirectory(prefix="router-hostile-") as name:
        folder = Path(name)
        edits = Edits(files, budget_for_two(folder, files), chosen.seed)
        registry = folder / "registry.yaml"
        registry.write_text(edits.text)
        with gateway(folder, registry, *flags) as (url, process, log):
            hostile = Hostile(url, psutil.Process(process.pid), log, registry, edits, chosen)
            asyncio.run(hostile.run())
            hostile.record.exit_status = end(process)
    hostile.record.log, hostile.record.log_lines = log.labels(), len(log.lines)
    return facts(hostile.record)
