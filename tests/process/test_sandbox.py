"""What a worker that a model file has taken over can still do: real processes, each tried with and without."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.domain.errors import LoadFailed, WorkerCrashed
from router.protocol import SANDBOX_LAYERS
from router.runtime.launcher import ProcessLauncher
from router.runtime.spares import Spares
from router.telemetry import Metrics
from tests.local import launch, quiet
from tests.process.people import ask, echo, text
from tests.worker.kernel import needs_landlock, needs_landlock_6

pytestmark = pytest.mark.process


async def serve(attempt: str, sandbox: str) -> str:
    """One answer of a worker that tries this first."""
    command = (sys.executable, "-m", "tests.process.prisoner", attempt)
    async with Spares(0, command=command, sandbox=sandbox) as spares:
        launcher = ProcessLauncher(spares, Metrics(), "echo")
        async with launch(launcher, "m#1", echo(), quiet) as worker:
            return await text(worker.generate(ask("hello")))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "other.gguf"
    path.write_text("of another model")
    return path


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@needs_landlock
async def test_a_worker_opens_no_file_but_its_model(secret: Path) -> None:
    with pytest.raises(LoadFailed, match="Permission denied"):
        await serve(f"open:{secret}", "on")
    assert await serve(f"open:{secret}", "off") == "hello"


@needs_landlock
async def test_the_thread_that_reads_requests_is_confined_too(secret: Path) -> None:
    with pytest.raises(WorkerCrashed, match="PermissionError"):
        await serve(f"prepare,open:{secret}", "on")
    assert await serve(f"prepare,open:{secret}", "off") == "hello"


async def test_a_worker_connects_to_nobody(port: int) -> None:
    with pytest.raises(LoadFailed, match="Address family not supported"):
        await serve(f"connect:{port}", "seccomp")
    assert await serve(f"connect:{port}", "off") == "hello"


@pytest.mark.parametrize("attempt", ["ptrace", "exec"])
async def test_a_worker_traces_and_starts_no_other_program(attempt: str) -> None:
    with pytest.raises(LoadFailed, match=r"Operation not permitted|ptrace"):
        await serve(attempt, "auto")


@needs_landlock_6
async def test_a_worker_sends_its_gateway_no_signal() -> None:
    with pytest.raises(LoadFailed, match="Operation not permitted"):
        await serve("kill", "on")
    assert await serve("kill", "off") == "hello"


async def test_what_holds_is_known_from_the_first_greeting() -> None:
    async with Spares(0, backend="echo") as spares:
        assert spares.sandbox is None
        await spares.take()
        assert spares.sandbox is not None
        assert {"no_new_privs", "rlimits"} <= set(spares.sandbox) <= set(SANDBOX_LAYERS)
    async with Spares(0, backend="echo", sandbox="off") as spares:
        await spares.take()
        assert spares.sandbox == ()
