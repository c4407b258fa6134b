"""Whatever stands behind standard output and error, the gateway serves on and ends when it is told to."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.echo import ask, registry, serving
from tests.e2e.gateway import Gateway

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

DRAIN = ("--drain", "2")


def ends(gateway: Gateway) -> int:
    """The exit status after SIGTERM; a gateway that ignores it fails the test."""
    gateway.process.send_signal(signal.SIGTERM)
    return gateway.process.wait(60)


def lines(text: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith(b"{")]


def test_the_reader_of_the_log_may_go_away(tmp_path: Path) -> None:
    """`router serve --json 2>&1 | head -3 >/dev/null`"""
    reading, writing = os.pipe()
    with subprocess.Popen(["head", "-3"], stdin=reading, stdout=subprocess.DEVNULL) as head:
        os.close(reading)
        flags = ("--json", "--log-level", "debug", *DRAIN)
        with serving(registry(tmp_path), stdout=writing, stderr=writing, flags=flags) as gateway:
            os.close(writing)
            gateway.wait()
            gateway.until(lambda: ask(gateway) == 200 and head.poll() is not None, 60)
            assert [ask(gateway, "slow"), ask(gateway), ask(gateway, "slow")] == [200] * 3
            assert gateway.http.get("/readyz").status_code == 200
            assert gateway.http.post("/models/unload", json={"model": "slow"}).status_code == 200
            assert ends(gateway) == 0


def test_nobody_needs_to_read_the_log(tmp_path: Path) -> None:
    out, err = os.pipe(), os.pipe()
    flags = ("--json", *DRAIN)
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(os.fdopen(pipe[0], "rb")) for pipe in (out, err)]
        served = serving(registry(tmp_path), stdout=out[1], stderr=err[1], flags=flags)
        gateway = stack.enter_context(served)
        os.close(out[1])
        os.close(err[1])
        gateway.wait()
        path = "/v1/models?" + "x" * 150
        for number in range(300):
            assert gateway.http.get(path, headers={"x-request-id": f"r{number}"}).status_code == 200
        assert gateway.http.get("/livez").status_code == 200
        assert ask(gateway) == 200
        # Read at last, it is all there: more than a pipe holds.
        said = b""
        while b'"path": "/livez"' not in said or b'"path": "/v1/completions"' not in said:
            said += os.read(readers[1].fileno(), 2**16)
        asked = [line["request"] for line in lines(said) if line.get("path") == "/v1/models"]
        assert asked == [f"r{number}" for number in range(300)]
        assert len(said) > 2**16
        assert ends(gateway) == 0


def test_a_gateway_whose_log_is_stuck_ends_when_it_is_told_to(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb"), os.fdopen(writing, "wb") as full:
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, b"x" * 4096)
        os.set_blocking(writing, True)
        with serving(registry(tmp_path), stdout=full, stderr=full, flags=DRAIN) as gateway:
            gateway.wait()
            assert ask(gateway) == 200
            assert ends(gateway) == 0


@contextlib.contextmanager
def small_file_system(folder: Path) -> Iterator[Callable[[], None]]:
    """`folder` is a tmpfs of 32 KiB; the answer makes it a larger one. Only root may mount."""
    mounting = ["mount", "-t", "tmpfs", "-o", "size=32k", "none", str(folder)]
    subprocess.run(mounting, check=True, capture_output=True)
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True) and None
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_the_log_may_be_on_a_full_disk_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        limited = None
        try:
            make_room = stack.enter_context(small_file_system(folder))
        except (OSError, subprocess.CalledProcessError):  # not root: a file that may not grow is as good
            limited = 2**15
        log = stack.enter_context((folder / "log").open("wb"))
        served = serving(
            registry(tmp_path),
            stdout=subprocess.DEVNULL,
            stderr=log,
            flags=("--json", *DRAIN),
            preexec_fn=None if limited is None else lambda: _limit_files(0, limited),
        )
        gateway = stack.enter_context(served)
        if limited is not None:
            make_room = lambda: _limit_files(gateway.process.pid, resource.RLIM_INFINITY)  # noqa: E731
        gateway.wait()
        filled = 0
        while (folder / "log").stat().st_size > filled or filled < 2**14:
            filled = (folder / "log").stat().st_size
            for _ in range(30):
                assert gateway.http.get("/v1/models?" + "x" * 150).status_code == 200
        assert [ask(gateway), ask(gateway, "slow")] == [200, 200]
        make_room()
        assert gateway.http.get("/v1/models", headers={"x-request-id": "afterwards"}).status_code == 200
        gateway.until(lambda: b"afterwards" in (folder / "log").read_bytes(), 60)
        said = lines((folder / "log").read_bytes())
        assert {"loading", "ready"} <= {str(line["event"]) for line in said}, "what was said meanwhile"
        assert ends(gateway) == 0


def _limit_files(pid: int, size: int) -> None:
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if size == resource.RLIM_INFINITY else size, hard))


@pytest.mark.parametrize("flags", [("--json",), ()], ids=["json", "banner"])
def test_standard_output_may_be_full(tmp_path: Path, flags: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        served = serving(registry(tmp_path), stdout=full, stderr=subprocess.DEVNULL, flags=(*DRAIN, *flags))
        with served as gateway:
            gateway.wait()
            assert ask(gateway) == 200
            assert gateway.http.get("/readyz").json()["status"] == "ok"
            assert ends(gateway) == 0


def test_all_standard_streams_may_be_closed(tmp_path: Path) -> None:
    """Else the first socket gets the number of standard error, and its client the log."""

    def close_all() -> None:
        for fd in (0, 1, 2):
            os.close(fd)

    quiet = subprocess.DEVNULL
    with serving(
        registry(tmp_path), stdout=quiet, stderr=quiet, flags=DRAIN, preexec_fn=close_all
    ) as gateway:
        gateway.wait()
        assert ask(gateway) == 200
        held = Path(f"/proc/{gateway.process.pid}/fd")
        assert {str((held / str(fd)).readlink()) for fd in (0, 1, 2)} == {os.devnull}
        assert ends(gateway) == 0


def test_a_wrong_registry_ends_with_2_whatever_the_streams_are(tmp_path: Path) -> None:
    (tmp_path / "registry.yaml").write_text("version: 1\nmodels: {}\n")
    with Path("/dev/full").open("wb") as full:
        served = serving(tmp_path / "registry.yaml", stdout=full, stderr=full, flags=("--json",))
        with served as gateway:
            assert gateway.process.wait(60) == 2
