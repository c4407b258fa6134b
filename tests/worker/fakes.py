"""An engine that decodes nothing, and a gateway's end of the socket, for the worker's threads."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from router import protocol
from router.domain.errors import RouterError
from router.domain.generation import (
    Delta,
    EmbeddingRequest,
    Embeddings,
    FinishReason,
    GenerationRequest,
    TextPrompt,
    Usage,
)
from router.domain.models import EngineOptions, Footprint
from router.engine.engine import (
    Broken,
    EmbeddingDone,
    EngineFacts,
    Finished,
    Gauges,
    Output,
    Progressed,
)
from router.worker.backends import Kind, Progress
from router.worker.link import Link
from router.worker.service import Service

FACTS = EngineFacts(64, 2, 100, 4, False, True)
RESIDENT = {"host": Footprint(weights=5)}


@dataclass
class FakeEngine:
    """Gives each request "a", "b", "c", one a step; "endless" never ends, other prompts fail as they say."""

    facts: EngineFacts = FACTS
    resident: dict[str, Footprint] = field(default_factory=lambda: RESIDENT)
    mapped: int = 3
    error: Exception | None = None
    running: dict[str, list[str]] = field(default_factory=dict)
    embeddings: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    steps: int = 0
    reading: list[tuple[str, int, int]] = field(default_factory=list)
    vector: bytes = b"\0" * 4
    closed: bool = False
    gates: dict[str, threading.Event] = field(default_factory=dict)
    """Requests whose prompt is read only once the event is set."""

    @property
    def busy(self) -> bool:
        return bool(self.running or self.embeddings or self.broken)

    def prepare(self, request: GenerationRequest) -> GenerationRequest:
        if gate := self.gates.get(request.id):
            gate.wait(10)
        if self.error is not None:
            raise self.error
        return request

    def prepare_embedding(self, request: EmbeddingRequest) -> EmbeddingRequest:
        if self.error is not None:
            raise self.error
        return request

    def add(self, job: GenerationRequest | EmbeddingRequest) -> None:
        if isinstance(job, EmbeddingRequest):
            self.embeddings.append(job.id)
        elif job.prompt == TextPrompt("broken"):
            self.broken.append(job.id)
        elif job.prompt == TextPrompt("crash"):
            raise RuntimeError("the engine is lost")
        else:
            endless = job.prompt == TextPrompt("endless")
            self.running[job.id] = ["x"] * 10**6 if endless else ["a", "b", "c"]

    def cancel(self, id: str) -> bool:
        return self.running.pop(id, None) is not None

    def step(self) -> list[Output]:
        self.steps += 1
        outputs: list[Output] = [
            EmbeddingDone(id, Embeddings((self.vector,), 1, 1)) for id in self.embeddings
        ]
        outputs += [Broken(id, "it broke") for id in self.broken]
        self.embeddings.clear()
        self.broken.clear()
        for id, left in list(self.running.items()):
            outputs.append(self._piece(id, left))
        return outputs

    def _piece(self, id: str, left: list[str]) -> Output:
        text = left.pop(0)
        if left:
            return Progressed(id, Delta(text, 1))
        del self.running[id]
        return Finished(id, Delta(text, 1, FinishReason.STOP, Usage(1, 3)))

    def prompts(self) -> list[tuple[str, int, int]]:
        return self.reading

    def gauges(self) -> Gauges:
        return Gauges(slots_busy=len(self.running), steps=self.steps)

    def close(self) -> None:
        self.closed = True


class Gateway:
    """The other end: sends commands, collects events."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._decoder = protocol.event_decoder()
        self._events: list[protocol.WorkerEvent] = []

    def send(self, *commands: protocol.Command) -> None:
        self.sock.sendall(b"".join(map(protocol.encode, commands)))

    def next(self) -> protocol.WorkerEvent:
        while not self._events:
            data = self.sock.recv(2**20)
            if not data:
                raise EOFError
            self._events += self._decoder.feed(data)
        return self._events.pop(0)

    def until(self, wanted: Callable[[protocol.WorkerEvent], bool]) -> list[protocol.WorkerEvent]:
        """All events up to the first that is wanted."""
        seen = [self.next()]
        while not wanted(seen[-1]):
            seen.append(self.next())
        return seen


@dataclass
class Running:
    gateway: Gateway
    engine: FakeEngine
    service: Service
    codes: dict[str, int]
    ended: list[int]
    threads: list[threading.Thread]

    def join(self, name: str) -> int:
        """The exit code of one thread, which must end by itself."""
        (thread,) = [t for t in self.threads if t.name == name]
        thread.join(10)
        return self.codes[name]


@contextlib.contextmanager
def running(
    load: Callable[[FakeEngine, Progress], None] = lambda engine, progress: None,
    dry_run: Callable[[str, EngineOptions], dict[str, Footprint]] = lambda path, options: {
        "host": Footprint(weights=7)
    },
) -> Iterator[Running]:
    """A service with both of its threads, its model not loaded yet."""
    engine = FakeEngine()

    def load_it(path: str, options: EngineOptions, progress: Progress) -> FakeEngine:
        load(engine, progress)
        return engine

    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    ended: list[int] = []
    kind = Kind("echo", "fake build", False, load_it, dry_run)  # type: ignore[arg-type]
    service = Service(Link(theirs), kind, ended.append)
    codes: dict[str, int] = {}
    with ours, theirs:
        threads = [_thread(codes, name, getattr(service, name)) for name in ("intake", "steps")]
        yield Running(Gateway(ours), engine, service, codes, ended, threads)
        service.stop()
        ours.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()


def _thread(codes: dict[str, int], name: str, run: Callable[[], int]) -> threading.Thread:
    def body() -> None:
        try:
            codes[name] = run()
        except (RuntimeError, RouterError):
            codes[name] = -1

    thread = threading.Thread(target=body, name=name, daemon=True)
    thread.start()
    return thread
