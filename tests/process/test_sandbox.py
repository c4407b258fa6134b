"""What a worker that a model file has taken over can still do: real processes, each tried with and without."""

from __future__ import annotations

import os
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
from tests.worker.kernel import needs_filter, needs_landlock, needs_landlock_6

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


@needs_filter
@pytest.mark.parametrize("attempt", ["limits", "priority", "affinity", "kill", "owner", "fork"])
async def test_a_worker_has_no_hold_on_its_gateway_and_no_children(attempt: str) -> None:
    with pytest.raises(LoadFailed, match="Operation not permitted"):
        await serve(attempt, "seccomp")
    assert await serve(attempt, "off") == "hello"


@needs_filter
@pytest.mark.parametrize("attempt", ["chmod", "chown", "times"])
async def test_a_worker_changes_no_file_s_owner_rights_or_times(attempt: str, secret: Path) -> None:
    with pytest.raises(LoadFailed, match="Operation not permitted"):
        await serve(f"{attempt}:{secret}", "seccomp")
    assert await serve(f"{attempt}:{secret}", "off") == "hello"


@needs_filter
async def test_a_worker_gives_no_file_an_attribute(secret: Path) -> None:
    """The file system may know no attributes: then the kernel says so where the sandbox is off."""
    with pytest.raises(LoadFailed, match="Operation not permitted"):
        await serve(f"attribute:{secret}", "seccomp")


@needs_filter
async def test_a_worker_reaches_no_server_on_this_machine_by_its_socket_s_path(tmp_path: Path) -> None:
    path = f"{tmp_path}/s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        with pytest.raises(LoadFailed, match="Address family not supported"):
            await serve(f"unix:{path}", "seccomp")
        assert await serve(f"unix:{path}", "off") == "hello"


async def test_a_worker_takes_no_more_memory_than_its_model_explains() -> None:
    with pytest.raises(LoadFailed) as failed:
        await serve("memory", "rlimits")
    assert failed.value.out_of_memory
    assert await serve("memory", "off") == "hello"


@needs_filter
@pytest.mark.parametrize("attempt", ["shared", "file", "segment"])
async def test_a_worker_has_no_memory_that_the_bound_does_not_count(attempt: str) -> None:
    with pytest.raises(LoadFailed, match="Operation not permitted"):
        await serve(attempt, "seccomp")
    assert await serve(attempt, "off") == "hello"


@needs_landlock
async def test_a_thread_from_before_the_sandbox_is_found(secret: Path) -> None:
    with pytest.raises(LoadFailed, match="landlock cannot be had: 1 threads were started before"):
        await serve(f"early,open:{secret}", "on")
    assert await serve(f"early,open:{secret}", "off") == "hello"


@needs_landlock
async def test_a_worker_does_not_read_its_gateway_s_environment() -> None:
    environment = f"/proc/{os.getpid()}/environ"
    with pytest.raises(LoadFailed, match="Permission denied"):
        await serve(f"open:{environment}", "landlock")
    assert await serve(f"open:{environment}", "off") == "hello"


@needs_landlock
@pytest.mark.model
async def test_llama_cpp_starts_no_thread_before_it_is_confined() -> None:
    """With one, `on` would have refused to start: numpy's BLAS would start a pool at its import."""
    async with Spares(0, sandbox="on") as spares:
        await spares.take()
        assert spares.sandbox == SANDBOX_LAYERS


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
