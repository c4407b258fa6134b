"""What `make` and CI would do, without doing it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()


def make(*arguments: str) -> str:
    """The commands that make would run, or what it prints."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, env=clean
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def targets() -> set[str]:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    return set(phony.split())


def test_every_target_that_is_announced_is_there(targets: set[str]) -> None:
    assert targets <= set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def test_make_alone_explains_itself(targets: set[str]) -> None:
    explained = make()
    assert all(f"make {target}" in explained for target in targets - {"help", "install", "install-dev"})


def test_serve_passes_on_where_and_what() -> None:
    commands = make("-n", "serve", "PORT=9", "HOST=::1", "REGISTRY=my own.yaml", "ARGS=--allow-open")
    assert 'router serve --registry "my own.yaml" --host "::1" --port "9" --allow-open' in commands


def test_serve_installs_before_it_serves_and_without_the_test_tools() -> None:
    commands = make("-n", "serve")
    assert commands.index("deploy/install.py") < commands.index("router serve")
    assert "--dev" not in commands


def test_serve_fetches_the_demo_models_only_for_the_demo_registry() -> None:
    assert 'if [ "config/registry.yaml" = "config/registry.yaml" ]' in make("-n", "serve")
    assert 'if [ "mine.yaml" = "config/registry.yaml" ]' in make("-n", "serve", "REGISTRY=mine.yaml")


@pytest.mark.parametrize("step", ["install.py --dev", "router demo", "ruff check", "lint-imports", "mypy"])
def test_test_does_its_own_set_up_and_every_check_before_pytest(step: str) -> None:
    commands = make("-n", "test")
    assert commands.index(step) < commands.index("bin/pytest")


def test_soak_runs_the_lives_and_the_swaps_or_only_what_is_hostile() -> None:
    both = make("-n", "soak", "ARGS=--swaps 200")
    assert both.index("ROUTER_LIVES=20000") < both.index("tests.bench.soak --swaps 200")
    hostile = make("-n", "soak", "ARGS=--hostile --seconds 60")
    assert "ROUTER_LIVES" not in hostile
    assert "tests.bench.soak --hostile --seconds 60" in hostile


def test_ci_runs_make_test_without_standard_input() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()
    assert re.search(r"^exec make test </dev/null$", script.read_text(), re.MULTILINE)
