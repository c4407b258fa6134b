"""What is kept for whoever has to find out why residency broke."""

from __future__ import annotations

from structlog.testing import capture_logs

from router.residency import events
from router.residency.history import SIZE, History


def test_the_last_entries_are_kept_oldest_first_and_logged_one_a_line() -> None:
    history = History()
    for at in range(SIZE + 10):
        history.note(events.TimePassed(float(at)))
    lines = history.lines()
    assert len(lines) == SIZE
    assert lines[0] == "TimePassed(at=10.0)"
    with capture_logs() as logged:
        history.log()
    assert [line["entry"] for line in logged] == list(lines)
    assert {line["log_level"] for line in logged} == {"critical"}


def test_an_entry_as_large_as_a_registry_is_cut_in_the_log() -> None:
    history = History()
    history.note(events.UnloadRequested(0.0, "x" * 100_000))
    with capture_logs() as logged:
        history.log()
    assert len(logged[0]["entry"]) == 2000


def test_what_cannot_be_shown_does_not_keep_the_gateway_from_stopping() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise ValueError("no words")

    history = History()
    history.note(Broken())  # type: ignore[arg-type]
    with capture_logs() as logged:
        history.log()
    assert [line["event"] for line in logged] == ["an observation failed"]
