from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from router.worker import life


def test_a_worker_whose_gateway_died_before_it_was_tied_ends_at_once() -> None:
    script = "from router.worker import life; life.tie_to_parent(1 << 30); print('still here')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (life.ORDERLY, b"")


def test_a_worker_whose_gateway_lives_goes_on() -> None:
    script = f"from router.worker import life; life.tie_to_parent({os.getpid()}); print('still here')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=30, check=False)
    assert done.stdout == b"still here\n"


def test_sigterm_stops_in_good_order_and_sigint_is_ignored() -> None:
    stops: list[bool] = []
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        life.watch_signals(lambda: stops.append(True))
        os.kill(os.getpid(), signal.SIGINT)
        assert stops == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert stops == [True]
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def test_a_log_line_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    life.log("info", "two\nlines", bytes=3, odd={1, 2})
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line) == {"level": "info", "event": "two\nlines", "bytes": 3, "odd": "{1, 2}"}


def test_an_error_is_logged_with_its_kind_and_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise KeyError("slot")
    except KeyError as error:
        life.log_error("it failed", error)
    line = json.loads(capsys.readouterr().err)
    assert line["error"] == "KeyError: 'slot'"
    assert "test_life.py" in line["traceback"]


def test_a_log_that_nobody_reads_any_more_is_no_error() -> None:
    script = """
import os
from router.worker import life
read, write = os.pipe()
os.dup2(write, 2)
os.close(read)
life.log("info", "nobody hears this")
os._exit(4)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=30, check=False)
    assert done.returncode == 4
