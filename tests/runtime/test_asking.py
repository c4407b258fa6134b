from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from router.runtime import asking
from router.runtime.asking import Asking


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A driver that answers when this is set."""
    monkeypatch.setattr(asking, "PATIENCE", 0.02)
    released = threading.Event()
    yield released
    released.set()


async def test_the_answer_comes_from_another_thread() -> None:
    here = threading.get_ident()
    assert await Asking().ask(lambda: {"there": threading.get_ident() != here}) == {"there": True}


async def test_a_question_that_fails_has_no_answer() -> None:
    nothing: dict[str, int] = {}
    assert await Asking().ask(lambda: {"gpu0": nothing["no such board"]}) == {}


async def test_a_driver_that_owes_an_answer_is_asked_nothing_more(stuck: threading.Event) -> None:
    driver, asked = Asking(), []

    def question() -> dict[str, int]:
        asked.append(threading.current_thread())
        stuck.wait(10)
        return {"gpu0": 1}

    for _ in range(3):
        assert await driver.ask(question) == {}
    assert len(asked) == 1
    assert asked[0].daemon, "Python would wait for it at its end"


async def test_a_driver_that_has_come_back_is_asked_again(
    stuck: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Asking()

    def question() -> dict[str, int]:
        stuck.wait(10)
        return {"gpu0": 1}

    assert await driver.ask(question) == {}
    stuck.set()
    monkeypatch.setattr(asking, "PATIENCE", 5)
    owed = driver._owed
    assert owed is not None
    await owed
    assert await driver.ask(question) == {"gpu0": 1}
