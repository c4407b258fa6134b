"""
Prompts are read beside the thread that answers pings: short ones in one thread, long ones in another.

The one rule: a job leaves under the lock under which a Cancel looks for it, so that no job starts after its Cancel.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from router.domain.generation import ChatPrompt, EmbeddingRequest, GenerationRequest, TextPrompt

SHORT = 64 * 1024
"""Characters or token ids; a longer prompt waits for other long ones only."""

Work = Callable[[], None]


class Intake:
    """
    `take` and `cancel` are for one thread. Work is what reads a prompt and calls `finish` with its id; `failed` gets
    what it raises all the same.
    """

    def __init__(self, failed: Callable[[BaseException], object]) -> None:
        self._failed = failed
        self._lock = threading.Lock()
        self._unread: dict[str, bool] = {}
        """Requests taken and not read, oldest first; True for those that were cancelled."""
        self._lanes: tuple[queue.SimpleQueue[Work | None], ...] = (queue.SimpleQueue(), queue.SimpleQueue())
        self._started = False
        self._begun: dict[int, str] = {}
        """What each lane reads now."""

    def start(self) -> None:
        """In the thread whose sandbox the lanes are to inherit; once."""
        if self._started:
            return
        self._started = True
        for number, name in enumerate(("short prompts", "long prompts")):
            threading.Thread(target=self._run, args=(number,), name=name, daemon=True).start()

    def stop(self) -> None:
        """The lanes end behind what they have."""
        for lane in self._lanes:
            lane.put(None)

    @property
    def unread(self) -> tuple[str, ...]:
        """Ids of what is being read, then of what waits for it."""
        with self._lock:
            begun = list(self._begun.values())
            return (*begun, *(id for id in self._unread if id not in begun))

    def take(self, id: str, characters: int, work: Work) -> None:
        """Have it read; `work` calls `finish`."""
        lane = int(characters > SHORT)

        def begin() -> None:
            with self._lock:
                self._begun[lane] = id
            try:
                work()
            finally:
                with self._lock:
                    del self._begun[lane]

        with self._lock:
            self._unread[id] = False
        self._lanes[lane].put(begin)

    def cancel(self, id: str) -> bool:
        """True if it is not read yet: it will not be, or come to nothing."""
        with self._lock:
            if id not in self._unread:
                return False
            self._unread[id] = True
            return True

    def cancelled(self, id: str) -> bool:
        """Whether it need not be read any more."""
        with self._lock:
            return self._unread[id]

    def finish(self, id: str, leave: Callable[[], object]) -> bool:
        """It is read: `leave` passes it on, unless it was cancelled meanwhile. True if it left."""
        with self._lock:
            cancelled = self._unread.pop(id)
            if not cancelled:
                leave()
            return not cancelled

    def _run(self, lane: int) -> None:
        try:
            while (work := self._lanes[lane].get()) is not None:
                work()
        except BaseException as error:
            self._failed(error)


def characters(request: GenerationRequest | EmbeddingRequest) -> int:
    """How long what it asks is: characters, or token ids."""
    if isinstance(request, EmbeddingRequest):
        return sum(map(len, request.inputs))
    match request.prompt:
        case ChatPrompt(messages):
            return sum(len(message.content) for message in messages)
        case TextPrompt(text):
            return len(text)
        case other:
            return len(other.tokens)
