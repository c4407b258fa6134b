from __future__ import annotations

import pytest

from router.engine import llama_log
from router.engine.llama_log import _CONTINUED, _ERROR, _WARN, _Lines


@pytest.fixture(autouse=True)
def _silence() -> None:
    llama_log.recent.clear()


def test_warnings_and_errors_are_kept_and_the_rest_is_not() -> None:
    lines = _Lines()
    lines.take(2, b"an information\n")
    lines.take(_WARN, b"a warning\n")
    lines.take(_ERROR, b"an error\n")
    assert list(llama_log.recent) == ["a warning", "an error"]
    assert llama_log.last_words() == ": an error"


def test_pieces_become_lines() -> None:
    lines = _Lines()
    lines.take(_ERROR, b"half")
    lines.take(_CONTINUED, b" a line\nand")
    lines.take(_CONTINUED, b" more\n")
    assert list(llama_log.recent) == ["half a line", "and more"]


def test_what_continues_an_information_is_not_kept() -> None:
    lines = _Lines()
    lines.take(2, b"tensors ")
    lines.take(_CONTINUED, b"....\n")
    assert not llama_log.recent
    assert llama_log.last_words() == "."


def test_lines_go_to_stderr_with_their_source(capsys: pytest.CaptureFixture[str]) -> None:
    _Lines().take(_ERROR, "schlecht \u2717\n".encode())
    assert capsys.readouterr().err == "llama.cpp: schlecht \u2717\n"
