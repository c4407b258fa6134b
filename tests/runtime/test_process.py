from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from router.domain.errors import LoadFailed
from router.runtime.process import WorkerProcess, describe_exit, worker_environment


def test_no_credential_and_nothing_unknown_reaches_a_worker() -> None:
    outer = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "CUDA_VISIBLE_DEVICES": "0",
        "LLAMA_CACHE": "/c",
        "PYTHONPATH": "/p",
        "ROUTER_CACHE": "canary",
        "ROUTER_BIG_AUTH": "canary",
        "ROUTER_API_KEY": "canary",
        "LLAMA_API_KEY": "canary",
        "OPENAI_API_KEY": "canary",
        "HF_TOKEN": "canary",
        "AWS_SECRET_ACCESS_KEY": "canary",
        "PATHOLOGY": "canary",
        "http_proxy": "canary",
    }
    assert worker_environment(outer) == {
        "PATH": "/bin",
        "LC_ALL": "C",
        "CUDA_VISIBLE_DEVICES": "0",
        "LLAMA_CACHE": "/c",
        "PYTHONPATH": "/p",
        "GGML_NO_BACKTRACE": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }


def test_a_module_path_means_for_a_worker_what_it_means_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seen = worker_environment({"PYTHONPATH": ":/p:lib:"})
    assert seen["PYTHONPATH"] == f"/p:{tmp_path}/lib"


def test_an_exit_is_told_in_words() -> None:
    assert describe_exit(0) == "exited with code 0"
    assert describe_exit(3) == "exited with code 3"
    assert describe_exit(-signal.SIGKILL) == "killed by SIGKILL"
    assert describe_exit(-63) == "killed by signal 63"
    assert describe_exit(None) == "still running"


@pytest.mark.process
@pytest.mark.parametrize(
    ("script", "end"),
    [
        ("read line; exit 0", "stopped by the gateway"),
        ("exec sleep 60", "stopped by the gateway"),
        ("trap 'exit 7' TERM; while :; do sleep 0.01; done", "exited with code 7"),
    ],
)
async def test_a_process_that_was_told_to_stop_did_not_die_unless_it_did(script: str, end: str) -> None:
    process = await WorkerProcess.spawn("echo", ("/bin/sh", "-c", script))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(process.live())
        await process.stop(grace=0.5)
    assert process.end() == end
    assert process.stopped is (end == "stopped by the gateway")


async def test_a_program_that_is_not_there_is_a_failed_load() -> None:
    with pytest.raises(LoadFailed, match="No such file"):
        await WorkerProcess.spawn("echo", ("/no/such/program",))


@pytest.mark.process
async def test_the_last_words_of_a_process_are_told() -> None:
    process = await WorkerProcess.spawn("echo", ("/bin/sh", "-c", "echo it is over >&2; exit 7"))
    gone: list[str] = []
    process.on_gone = lambda: gone.append(process.end())
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(process.live())
    assert gone == ["exited with code 7; its last words: it is over"]
    assert process.doomed
    process.kill("too late")  # no harm, and it does not change the story
    assert "exited with code 7" in process.end()
