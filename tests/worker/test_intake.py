from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from router.domain.generation import (
    ChatPrompt,
    EmbeddingRequest,
    GenerationRequest,
    Message,
    TextPrompt,
    TokenPrompt,
)
from router.worker.intake import SHORT, Intake, characters


class Readers:
    """An intake whose works wait for their own event."""

    def __init__(self) -> None:
        self.failures: list[BaseException] = []
        self.failed = threading.Event()
        self.intake = Intake(self._fail)
        self.intake.start()
        self.left: list[str] = []
        self.gates: dict[str, threading.Event] = {}
        self.begun: dict[str, threading.Event] = {}
        self.done: dict[str, threading.Event] = {}

    def _fail(self, error: BaseException) -> None:
        self.failures.append(error)
        self.failed.set()

    def take(self, id: str, characters: int) -> None:
        gate, begun, done = (threading.Event() for _ in range(3))
        self.gates[id], self.begun[id], self.done[id] = gate, begun, done

        def work() -> None:
            begun.set()
            assert gate.wait(10)
            self.intake.finish(id, lambda: self.left.append(id))
            done.set()

        self.intake.take(id, characters, work)

    def release(self, id: str) -> None:
        self.gates[id].set()
        assert self.done[id].wait(10)


@pytest.fixture
def readers() -> Iterator[Readers]:
    readers = Readers()
    yield readers
    for gate in readers.gates.values():
        gate.set()
    readers.intake.stop()


def test_a_short_prompt_passes_a_long_one(readers: Readers) -> None:
    readers.take("long", SHORT + 1)
    assert readers.begun["long"].wait(10)
    readers.take("short", SHORT)
    readers.release("short")
    assert readers.left == ["short"]
    assert readers.intake.unread == ("long",)
    readers.release("long")
    assert readers.left == ["short", "long"]
    assert readers.intake.unread == ()


def test_what_is_read_now_stands_before_what_waits(readers: Readers) -> None:
    for id in ("a", "b", "c"):
        readers.take(id, SHORT + 1)
    assert readers.begun["a"].wait(10)
    assert readers.intake.unread == ("a", "b", "c")


def test_a_request_that_is_cancelled_before_it_is_read_does_not_leave(readers: Readers) -> None:
    readers.take("a", 1)
    readers.take("b", 1)
    assert readers.intake.cancel("b")
    assert readers.intake.cancelled("b")
    readers.release("a")
    readers.release("b")
    assert readers.left == ["a"]
    assert not readers.intake.cancel("a")


def test_what_a_work_raises_is_told(readers: Readers) -> None:
    readers.intake.take("a", 1, lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    assert readers.failed.wait(10)
    assert isinstance(readers.failures[0], ZeroDivisionError)


@pytest.mark.parametrize(
    ("request_", "length"),
    [
        (GenerationRequest("1", ChatPrompt((Message("user", "abc"), Message("user", "d")))), 4),
        (GenerationRequest("1", TextPrompt("abc")), 3),
        (GenerationRequest("1", TokenPrompt((1, 2))), 2),
        (EmbeddingRequest("1", ("ab", (1, 2, 3))), 5),
    ],
)
def test_the_length_of_a_request_is_that_of_all_its_texts(
    request_: GenerationRequest | EmbeddingRequest, length: int
) -> None:
    assert characters(request_) == length
