"""What residency asks for is what the classes with processes behind them have."""

from __future__ import annotations

import inspect

import pytest

from router.residency.workers import Launcher, Worker
from router.runtime.client import WorkerClient
from router.runtime.launcher import ProcessLauncher
from router.runtime.weighing import Weighing


def asked(protocol: type) -> set[str]:
    return {name for name in vars(protocol) if not name.startswith("_")}


@pytest.mark.parametrize(("real", "protocol"), [(ProcessLauncher, Launcher), (Weighing, Launcher)])
def test_what_starts_processes_takes_what_residency_gives(real: type, protocol: type) -> None:
    for name in asked(protocol):
        wanted, found = (inspect.signature(getattr(one, name)) for one in (protocol, real))
        assert list(wanted.parameters) == list(found.parameters)


def test_a_worker_can_do_what_is_asked_of_it() -> None:
    source = inspect.getsource(WorkerClient)
    assert {n for n in asked(Worker) if f"def {n}(" not in source and f"self.{n} =" not in source} == set()
