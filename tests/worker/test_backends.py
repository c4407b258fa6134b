from __future__ import annotations

import subprocess
import sys

import pytest

from router.domain.models import EngineOptions, Footprint
from router.worker.backends import backend


def test_the_echo_loads_an_engine_and_runs_dry() -> None:
    kind = backend("echo")
    fractions: list[float] = []
    engine = kind.load("echo:?weights=7", EngineOptions(slots=3), fractions.append)
    assert (kind.name, kind.gpu_offload, engine.facts.slots) == ("echo", False, 3)
    assert (
        engine.resident == kind.dry_run("echo:?weights=7", EngineOptions()) == {"host": Footprint(weights=7)}
    )
    assert fractions[-1] == 1.0


def test_the_echo_worker_never_loads_llama_cpp_and_the_llama_worker_does_before_its_hello() -> None:
    assert modules_after("echo") == "False"
    assert modules_after("llama") == "True"


@pytest.mark.parametrize("name", ["structlog", "pydantic", "starlette", "prometheus_client", "yaml"])
def test_a_worker_never_loads_what_belongs_to_the_gateway(name: str) -> None:
    assert modules_after("llama", name) == "False"


def modules_after(kind: str, module: str = "llama_cpp") -> str:
    script = (
        f"import sys; from router.worker import service, backends; backends.backend({kind!r}); "
        f"print({module!r} in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=True)
    return done.stdout.decode().strip()
