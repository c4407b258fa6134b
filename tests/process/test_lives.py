"""How real worker processes start and end: loads that fail, the stop ladder, spares, orphans, leaks."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from router.domain.errors import LoadFailed
from router.domain.models import EngineOptions, Footprint
from router.protocol import VERSION
from router.runtime.launcher import ProcessLauncher
from router.runtime.spares import Spares
from router.telemetry import Metrics
from tests.local import heard, launch, quiet
from tests.process.people import alive, ask, children, echo, open_files, text, until, wait_until

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent.parent


def rogue(kind: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "tests.process.rogue", kind)


# Loads ----------------------------------------------------------------------------------------------------


async def test_a_load_tells_its_progress_and_its_bytes(launcher: ProcessLauncher) -> None:
    fractions: list[float] = []
    model = echo("load_ms=300&weights=7&kv_cache=5&compute=3")
    async with launch(launcher, "m#1", model, heard(fractions)) as worker:
        assert worker.resident == {"host": Footprint(7, 5, 3)}
        assert (worker.facts.context, worker.facts.slots) == (512, 2)
        assert worker.pid in children()
    assert len(fractions) >= 3
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("fail=load", "The echo was told to fail its load."),
        ("fail=exit_load", "died during the load: exited with code 3"),
        ("fail=hang_load", "made no progress for 0.5 s"),
        ("nonsense=1", "The echo script has no 'nonsense'"),
    ],
)
async def test_each_load_that_fails_says_why_and_leaves_no_process(
    launcher: ProcessLauncher, spares: Spares, script: str, words: str
) -> None:
    with pytest.raises(LoadFailed, match=words):
        async with launch(launcher, "m#1", echo(script), quiet):
            raise AssertionError("it was launched")
    await until(lambda: spares.idle)
    assert children() == set(spares.idle)


async def test_a_load_that_is_no_longer_wanted_ends_at_once(
    launcher: ProcessLauncher, spares: Spares
) -> None:
    begun = asyncio.Event()

    async def load() -> None:
        async with launch(launcher, "m#1", echo("load_ms=60000"), lambda _: begun.set()):
            raise AssertionError("it was launched")

    await until(lambda: spares.idle)
    (pid,) = spares.idle
    async with asyncio.TaskGroup() as tasks:
        loading = tasks.create_task(load())
        await until(lambda: not spares.idle)
        loading.cancel()
    assert loading.cancelled()
    assert alive([pid]) == []


async def test_a_dry_run_tells_the_bytes_and_loads_nothing(launcher: ProcessLauncher) -> None:
    assert await launcher.build() == "echo 1"
    assert await launcher.dry_run("echo:?weights=9", EngineOptions()) == ({"host": Footprint(weights=9)}, "")
    footprint, message = await launcher.dry_run("echo:?nonsense=1", EngineOptions())
    assert footprint is None
    assert "nonsense" in message


# Ends -----------------------------------------------------------------------------------------------------


async def test_leaving_stops_the_process_in_good_order(launcher: ProcessLauncher) -> None:
    async with launch(launcher, "m#1", echo(), quiet) as worker:
        pid = worker.pid
    assert alive([pid]) == []
    await worker.wait_gone()


async def test_a_process_that_does_not_react_is_killed(launcher: ProcessLauncher) -> None:
    async with launch(launcher, "m#1", echo(), quiet) as worker:
        os.kill(worker.pid, signal.SIGSTOP)
    assert alive([worker.pid]) == []


async def test_a_process_that_ignores_sigterm_is_killed() -> None:
    async with Spares(0, command=rogue("stubborn")) as spares:
        process = await spares.take()
        await process.stop(grace=0.2)
        assert process.end() == "stopped by the gateway: killed by SIGKILL"
        assert children() == set()


async def test_a_second_cancellation_does_not_wait_for_the_ladder() -> None:
    async with Spares(0, command=rogue("stubborn")) as spares:
        process = await spares.take()
        async with asyncio.TaskGroup() as tasks:
            stopping = tasks.create_task(process.stop(grace=60))
            await asyncio.sleep(0)
            stopping.cancel()
        assert alive([process.pid]) == []


async def test_a_process_that_hangs_up_and_stays_is_killed() -> None:
    async with Spares(0, command=rogue("hangs-up")) as spares:
        process = await spares.take()
        async with asyncio.timeout(10):
            await process.gone.wait()
        assert process.end() == "killed because it closed its socket and did not exit"


async def test_sigterm_ends_a_worker_in_good_order_and_sigint_does_nothing(launcher: ProcessLauncher) -> None:
    async with launch(launcher, "m#1", echo(), quiet) as worker:
        os.kill(worker.pid, signal.SIGINT)
        assert await text(worker.generate(ask("still here"))) == "still here"
        os.kill(worker.pid, signal.SIGTERM)
        async with asyncio.timeout(10):
            await worker.wait_gone()


@pytest.mark.parametrize("script", ["echo:?step_ms=1", "echo:?fail=hang_decode:3"])
def test_g12_no_worker_outlives_a_gateway_that_is_killed_outright(script: str) -> None:
    command = (sys.executable, "-m", "tests.process.gateway", script)
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as gateway:
        assert gateway.stdout is not None
        workers = [int(pid) for pid in gateway.stdout.readline().split()]
        assert len(alive(workers)) == 2
        gateway.kill()
    wait_until(lambda: not alive(workers), seconds=2)


def test_a_worker_runs_in_a_session_of_its_own() -> None:
    async def look() -> tuple[int, int]:
        async with Spares(0, backend="echo") as spares:
            process = await spares.take()
            return os.getsid(process.pid), process.pid

    session, pid = asyncio.run(look())
    assert session == pid


# Spares ---------------------------------------------------------------------------------------------------


async def test_a_load_uses_the_spare_and_a_new_one_starts_behind_it(
    launcher: ProcessLauncher, spares: Spares
) -> None:
    await until(lambda: spares.idle)
    (warm,) = spares.idle
    async with launch(launcher, "m#1", echo(), quiet) as worker:
        assert worker.pid == warm
        await until(lambda: spares.idle)
        assert spares.idle != (warm,)


async def test_a_spare_that_dies_is_replaced(spares: Spares) -> None:
    await until(lambda: spares.idle)
    (first,) = spares.idle
    os.kill(first, signal.SIGKILL)
    await until(lambda: spares.idle and spares.idle != (first,))


async def test_spares_that_keep_dying_are_started_ever_more_slowly() -> None:
    starts: list[float] = []
    async with Spares(1, command=rogue("short-lived"), backoff=0.05) as spares:
        original = spares.start

        async def counted():  # type: ignore[no-untyped-def]
            starts.append(asyncio.get_running_loop().time())
            return await original()

        spares.start = counted  # type: ignore[method-assign]
        await until(lambda: len(starts) >= 5)
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert gaps[-1] >= 0.2  # 0.05 doubled at least twice, however fast the machine


async def test_a_load_waits_for_the_spare_that_is_on_its_way() -> None:
    async with Spares(1, backend="echo") as spares:
        await asyncio.sleep(0)  # the keeper has begun
        process = await spares.take()
        assert children() == {process.pid}


async def test_two_loads_at_once_get_two_processes(launcher: ProcessLauncher) -> None:
    async with launch(launcher, "a#1", echo(), quiet) as a, launch(launcher, "b#2", echo(), quiet) as b:
        assert a.pid != b.pid


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            "old",
            f"speaks protocol {VERSION + 1}, this gateway {VERSION}: both must come from the same installation",
        ),
        ("mute", "said nothing for 2 s"),
        ("rude", "began with Pong instead of Hello"),
        ("garbage", "did not start: killed because it broke the protocol"),
        ("oversized", "did not start: killed because it broke the protocol: a frame of 67108865 bytes"),
        ("dies", "did not start: exited with code 9; its last words: no device"),
    ],
)
async def test_each_bad_greeting_is_refused_and_its_process_removed(kind: str, words: str) -> None:
    async with Spares(0, command=rogue(kind), hello_seconds=2.0 if kind == "mute" else 30.0) as spares:
        with pytest.raises(LoadFailed, match=words):
            await spares.take()
        await until(lambda: not children())


async def test_g19_no_credential_of_the_gateway_is_in_a_workers_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary-1")
    monkeypatch.setenv("ROUTER_API_KEY", "canary-2")
    async with Spares(0, backend="echo") as spares:
        process = await spares.take()
        environment = psutil.Process(process.pid).environ()
    assert not [value for value in environment.values() if "canary" in value]
    assert environment["GGML_NO_BACKTRACE"] == "1"


# Leaks ----------------------------------------------------------------------------------------------------


@pytest.mark.timeout(240)
async def test_g22_fifty_launches_leave_files_children_and_tasks_as_they_were() -> None:
    async with Spares(1, backend="echo") as spares:
        launcher = ProcessLauncher(spares, Metrics(), "echo")

        async def settled() -> tuple[int, int, int]:
            await until(lambda: spares.idle and len(children()) == 1)
            await asyncio.sleep(0.05)
            return open_files(), len(children()), len(asyncio.all_tasks())

        for _ in range(2):  # what is made once is made now
            async with launch(launcher, "m#0", echo(), quiet) as worker:
                await text(worker.generate(ask("hi")))
        before = await settled()
        for number in range(50):
            async with launch(launcher, f"m#{number}", echo(), quiet) as worker:
                if number % 5 == 0:
                    os.kill(worker.pid, signal.SIGKILL)
                    await worker.wait_gone()
                else:
                    assert await text(worker.generate(ask("hi"))) == "hi"
        assert await settled() == before
    assert children() == set()
