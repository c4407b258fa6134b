"""Streams that never raise and never wait: real pipes, real descriptors, real processes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from router.log_sink import LineSink, ProtectedStream, protect_streams

GUARD = 60.0
"""Seconds; only a hang takes so long."""


class _Sinks:
    """Every sink of a test: closed before its descriptor is, or its thread would write into whatever gets the number."""

    made: ClassVar[list[LineSink]] = []


def line_sink(fd: int, **options: Any) -> LineSink:
    sink = LineSink(fd, **options)
    _Sinks.made.append(sink)
    return sink


@pytest.fixture(autouse=True)
def closed_sinks(pipe: tuple[int, int]) -> Iterator[None]:
    yield
    while _Sinks.made:
        _Sinks.made.pop().close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        with contextlib.suppress(OSError):
            os.close(fd)


def gap(count: int) -> bytes:
    return b"gap of %d\n" % count


def read(fd: int, size: int) -> bytes:
    said = b""
    while len(said) < size:
        said += os.read(fd, 2**16)
    return said


def test_lines_come_out_whole_and_in_their_order(pipe: tuple[int, int]) -> None:
    sink = line_sink(pipe[1])
    wanted = [b"line %d\n" % number for number in range(1000)]
    for line in wanted:
        sink.put(line)
    assert sink.flush(GUARD)
    assert read(pipe[0], sum(map(len, wanted))) == b"".join(wanted)
    assert sink.dropped == 0


def test_what_a_full_pipe_does_not_take_is_dropped_and_counted_where_it_is_missing(
    pipe: tuple[int, int],
) -> None:
    sink = line_sink(pipe[1], max_bytes=2**18, gap=gap)
    line = b"x" * 1023 + b"\n"
    for _ in range(1000):
        sink.put(line)
    missing = sink.dropped
    assert 0 < missing < 1000
    kept = read(pipe[0], (1000 - missing) * len(line))
    assert sink.flush(GUARD)
    sink.put(b"afterwards\n")
    assert kept == line * (1000 - missing)
    assert read(pipe[0], 1) == gap(missing) + b"afterwards\n"
    assert sink.dropped == missing


def test_a_pipe_without_a_reader_costs_no_more_than_what_was_said(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    sink = line_sink(pipe[1], max_bytes=100)
    for _ in range(10):
        sink.put(b"x" * 30)
    assert sink.dropped == 7
    assert not sink.flush(0.01)


def test_a_descriptor_that_recovers_gets_what_waited(pipe: tuple[int, int], tmp_path: Path) -> None:
    """/dev/full takes nothing; a file in its place takes all."""
    stands_in = os.open("/dev/full", os.O_WRONLY)
    sink = line_sink(stands_in)
    sink.put(b"one\n")
    sink.put(b"two\n")
    assert not sink.flush(0.01)
    with (tmp_path / "log").open("wb") as log:
        os.dup2(log.fileno(), stands_in)
    assert sink.flush(GUARD)
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"
    sink.close()
    os.close(stands_in)


def test_a_closed_descriptor_is_no_error(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    os.close(fd)
    sink = line_sink(fd, max_bytes=10)
    sink.put(b"12345")
    assert sink.flush(GUARD)
    sink.put(b"123456")
    assert sink.dropped == 2


def test_a_number_that_another_file_has_now_is_not_written_to(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    os.close(fd)
    sink = line_sink(fd)
    sink.put(b"lost\n")
    assert sink.flush(GUARD)
    with (tmp_path / "other").open("wb", buffering=0) as other:
        os.dup2(other.fileno(), fd)
        sink.put(b"lost, too\n")
        sink.close()
    assert (tmp_path / "other").read_bytes() == b""
    assert sink.dropped == 2
    with contextlib.suppress(OSError):  # the other file may have got that very number
        os.close(fd)


def test_a_sink_that_is_closed_gives_up_what_waits(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    sink = line_sink(pipe[1])
    sink.put(b"one\n")
    sink.put(b"two\n")
    sink.close()
    assert sink.flush(0.0)
    assert sink.dropped == 2


def test_a_descriptor_that_somebody_made_non_blocking_is_waited_for(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    sink = line_sink(pipe[1])
    text = b"x" * 300_000 + b"\n"
    sink.put(text)
    assert read(pipe[0], len(text)) == text
    assert sink.flush(GUARD)


def test_a_stream_passes_whole_lines_on_and_takes_any_text(pipe: tuple[int, int]) -> None:
    with os.fdopen(os.dup(pipe[1]), "w", encoding="ascii") as under:
        sink = line_sink(pipe[1])
        stream = ProtectedStream(under, sink)
        print("one", end=" ", file=stream)
        print("line", file=stream)
        print("schön \ud800", file=stream)
        stream.writelines(["the ", "end"])
        stream.flush()
        assert sink.flush(GUARD)
        assert read(pipe[0], 1) == b"one line\nsch\\xf6n \\ud800\nthe end"
        assert (stream.isatty(), stream.writable(), stream.fileno()) == (False, True, under.fileno())


def test_writers_of_many_threads_do_not_mix_their_lines(pipe: tuple[int, int]) -> None:
    with os.fdopen(os.dup(pipe[1]), "w") as under:
        sink = line_sink(pipe[1])
        stream = ProtectedStream(under, sink)
        work = [threading.Thread(target=lambda c=c: print(c * 50, file=stream)) for c in "abcdefgh"]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
        assert sink.flush(GUARD)
        assert sorted(read(pipe[0], 8 * 51).split()) == [c * 50 for c in (b"a b c d e f g h").split()]


def test_a_stream_without_a_descriptor_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    protect_streams()
    assert (sys.stdout, sys.stderr) == before


PROGRAM = """
import logging, sys, warnings
from router import log_sink, telemetry
log_sink.protect_streams()
telemetry.configure_logging("info", json=True)
metrics = telemetry.Metrics()
for number in range(3000):
    telemetry.logger("test").info("x" * 2000, number=number)
logging.getLogger("asyncio").error("y" * 100_000)
warnings.warn("z" * 100_000)
print("banner", flush=True)
text = metrics.render()
open(sys.argv[1], "wb").write(text)
sys.exit(7)
"""


LATE = """sys.stdin.read()
telemetry.logger("test").info("the end")
sys.stderr._sink.flush(60)
"""


def test_a_process_with_a_stuck_log_goes_on_counts_what_is_dropped_and_ends(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb"), os.fdopen(writing, "wb") as out:
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / "metrics")]
        done = subprocess.run(command, stdout=out, stderr=out, timeout=GUARD, check=False)
    assert done.returncode == 7
    (line,) = [
        line
        for line in (tmp_path / "metrics").read_text().splitlines()
        if line.startswith("router_log_lines_dropped_total ")
    ]
    assert 1000 < float(line.split()[1]) <= 3002


def test_a_process_that_reads_late_sees_where_lines_are_missing(tmp_path: Path) -> None:
    program = PROGRAM.replace("sys.exit(7)", LATE)
    command = [sys.executable, "-c", program, str(tmp_path / "metrics")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe) as process:
        assert process.stdin is not None and process.stderr is not None
        until = time.monotonic() + GUARD
        while not (tmp_path / "metrics").exists() and time.monotonic() < until:
            time.sleep(0.01)
        head = [process.stderr.readline() for _ in range(900)]
        process.stdin.close()
        rest = process.stderr.read().splitlines()
    said = [json.loads(line) for line in [*head, *rest] if line.startswith(b"{")]
    # A short line may still have fitted where the long ones did not: then two lines say what is missing.
    gaps = [line for line in said if line["event"] == "log lines dropped"]
    assert said[-1]["event"] == "the end"
    assert said[-2] == gaps[-1]
    assert {gap["level"] for gap in gaps} == {"warning"}
    assert len(gaps) <= 2 and sum(gap["lines"] for gap in gaps) > 1000
