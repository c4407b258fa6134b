"""
One worker process: its socket, its stderr, its end.

The one rule: whatever happens, the process is reaped and every descriptor closed before `gone` is set.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Mapping, Sequence

import psutil

from router import protocol
from router.domain.errors import LoadFailed
from router.domain.worker_environment import reaches_workers
from router.runtime.logs import LogPump
from router.telemetry import logger

log = logger("runtime")

# -P: else Python looks into the working directory first, and a `queue.py` there would be executed.
WORKER = (sys.executable, "-P", "-m", "router.worker")
_CHUNK = 2**18
_EXIT_GRACE = 0.3
"""Seconds between the end of the socket and the exit, which the kernel does one after the other."""
_NOTHING_MORE: Mapping[str, str] = {}
STUCK_SECONDS = 2.0
"""A process that is not reaped so long after SIGKILL hangs in the kernel, and may do so for ever."""


def worker_environment(outer: Mapping[str, str]) -> dict[str, str]:
    """What a worker may see of the gateway's environment: no credential reaches it (G19)."""
    kept = {name: value for name, value in outer.items() if reaches_workers(name)}
    if path := kept.get("PYTHONPATH"):
        # As it is meant here: a worker runs elsewhere. An empty entry would be its working directory.
        kept["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, filter(None, path.split(os.pathsep))))
    return kept | _SET_FOR_WORKERS


_SET_FOR_WORKERS = {
    # With a debugger installed ggml runs it on itself when it aborts, and the worker does not die.
    "GGML_NO_BACKTRACE": "1",
    # CUDA numbers GPUs by speed unless told otherwise; NVML and our names go by the bus.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    # Threads that numpy's libraries start at their import would stay outside the sandbox.
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


class WorkerProcess:
    """
    A child and the frames between us. Made by `spawn`; `live` must run in a task that outlives its users.

    `on_event` gets each event from the worker; `on_gone` is called once, when it serves no more: after it was
    reaped, or when it was killed and does not end.
    """

    def __init__(self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._logs = LogPump(log)
        self._killed_for: str | None = None
        self._told_to_stop = False
        self.hello: protocol.Hello | None = None
        self.on_event: Callable[[protocol.WorkerEvent], None] = _ignore
        self.on_gone: Callable[[], None] = _nothing
        self.gone = asyncio.Event()
        """It is reaped."""
        self.lost = asyncio.Event()
        """It serves no more: gone, or killed and stuck."""
        self._patience: asyncio.TimerHandle | None = None

    @classmethod
    async def spawn(
        cls,
        backend: str,
        command: Sequence[str] = WORKER,
        sandbox: str = "auto",
        environment: Mapping[str, str] = _NOTHING_MORE,
    ) -> WorkerProcess:
        """
        Start a child, from the main thread: PDEATHSIG fires when the thread that forked ends. Raises LoadFailed.

        `environment`: variables beside those of `worker_environment`, or in their place.
        """
        try:
            ours, theirs = socket.socketpair()
            with contextlib.ExitStack() as undo:
                undo.callback(ours.close)
                with theirs:
                    reader, writer = await asyncio.open_unix_connection(sock=ours, limit=2**20)
                    undo.callback(writer.transport.abort)
                    flags = ("--backend", backend, "--sandbox", sandbox)
                    process = await _start((*command, *flags), theirs.fileno(), environment)
                undo.pop_all()
        except OSError as error:  # no such program, too many files, too many processes
            raise LoadFailed(f"No worker process could be started: {error}") from error
        return cls(process, reader, writer)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def instance(self) -> str:
        return self._logs.instance

    @instance.setter
    def instance(self, name: str) -> None:
        self._logs.instance = name

    @property
    def doomed(self) -> bool:
        """True once it is gone or was told to die."""
        return self._killed_for is not None or self._process.returncode is not None or self.gone.is_set()

    @property
    def put_down(self) -> bool:
        """Killed by this gateway, for a reason that `end` tells."""
        return self._killed_for is not None

    @property
    def stopped(self) -> bool:
        """It ended because this gateway told it to, and as told: no fault, whatever its exit code."""
        ends = (0, -signal.SIGTERM, -signal.SIGKILL)
        return self._told_to_stop and self._killed_for is None and self._process.returncode in ends

    def end(self) -> str:
        """How it ended, for people: the reason or the exit, and its last words."""
        code = self._process.returncode
        if self.stopped:
            at_last = f": {describe_exit(code)}" if code == -signal.SIGKILL else ""
            return f"stopped by the gateway{at_last}"
        how = self._killed_for or describe_exit(code)
        return f"{how}; its last words: {self._logs.last}" if self._logs.last else how

    def cpu_seconds(self) -> float:
        """Processor time that it has used; 0 when it is gone or cannot be looked at."""
        try:
            times = psutil.Process(self.pid).cpu_times()
        except (psutil.Error, OSError):
            return 0.0
        return float(times.user + times.system)

    def send(self, command: protocol.Command) -> None:
        """Queue one frame; to a dead worker it is lost, and `gone` says so. Raises protocol.FrameError."""
        frame = protocol.encode(command)
        if not self._writer.is_closing():
            self._writer.write(frame)

    def kill(self, reason: str) -> None:
        """SIGKILL. The first reason given is the one that `end` tells."""
        if not self.gone.is_set() and self._killed_for is None:
            self._killed_for = reason
        self._kill()

    async def live(self) -> None:
        """Read until the end, then reap. Runs in the owner's task group, once."""
        try:
            async with asyncio.TaskGroup() as tasks:
                pump = tasks.create_task(self._pump_stderr(), name=f"stderr-{self.pid}")
                await self._read_events()
                await self._reap()
                await asyncio.wait({pump}, timeout=1.0)
                pump.cancel()
        finally:
            self._bury()

    async def stop(self, grace: float = 2.0) -> bool:
        """
        The ladder: Stop, SIGTERM, SIGKILL, `grace` seconds apart.

        True when the process is gone; False when it was killed and does not end.
        """
        self._told_to_stop = self._told_to_stop or not self.doomed
        try:
            self.send(protocol.Stop())
            if self._killed_for is None:
                await self._climb(grace)
            await self.lost.wait()
        except asyncio.CancelledError:  # in a hurry: the last rung at once
            self._kill()
            await self.lost.wait()
            raise
        return self.gone.is_set()

    async def _climb(self, grace: float) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self.lost.wait()
                    return
            log.info("worker does not stop", instance=self.instance, pid=self.pid, next=number.name)
            self._signal(number)
        self._kill()

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)
        if self._patience is None and not self.gone.is_set():
            self._patience = asyncio.get_running_loop().call_later(STUCK_SECONDS, self._give_up)

    def _give_up(self) -> None:
        log.error("a killed worker does not end", instance=self.instance, pid=self.pid)
        self._lose()

    def _lose(self) -> None:
        if not self.lost.is_set():
            self.lost.set()
            self.on_gone()

    async def _read_events(self) -> None:
        decoder = protocol.event_decoder()
        try:
            while data := await self._reader.read(_CHUNK):
                for event in decoder.feed(data):
                    self.on_event(event)
        except ConnectionError:
            pass
        except protocol.FrameError as error:
            self.kill(f"killed because it broke the protocol: {error}")
        except Exception as error:  # a fault of ours: one worker may pay for it, not the gateway
            log.exception("a worker's event could not be handled", instance=self.instance)
            self.kill(f"killed because its events could not be handled: {error}")

    async def _reap(self) -> None:
        self._writer.close()
        try:
            async with asyncio.timeout(_EXIT_GRACE):
                await self._process.wait()
        except TimeoutError:
            self.kill("killed because it closed its socket and did not exit")
            await self._process.wait()

    def _bury(self) -> None:
        """Also reached by cancellation, so it may not wait."""
        self._signal(signal.SIGKILL)
        self._writer.transport.abort()
        self._logs.close()
        if self._patience is not None:
            self._patience.cancel()
        if self.lost.is_set():
            log.warning("a worker that was stuck ended after all", instance=self.instance, pid=self.pid)
        self.gone.set()
        self._lose()

    async def _pump_stderr(self) -> None:
        assert self._process.stderr is not None
        while data := await self._process.stderr.read(_CHUNK):
            self._logs.feed(data)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


def describe_exit(code: int | None) -> str:
    """ "killed by SIGKILL" or "exited with code 1"."""
    if code is None:
        return "still running"
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


async def _start(command: Sequence[str], fd: int, environment: Mapping[str, str]) -> Process:
    flags = ("--fd", str(fd), "--parent", str(os.getpid()))
    return await asyncio.create_subprocess_exec(
        *command,
        *flags,
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=PIPE,
        pass_fds=(fd,),
        start_new_session=True,
        cwd="/",
        env={**worker_environment(os.environ), **environment},
    )


def _ignore(event: protocol.WorkerEvent) -> None:
    """For whoever does not want to hear."""


def _nothing() -> None:
    """For whoever does not want to hear."""
