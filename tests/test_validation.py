"""`router check` judges as `serve` does: with llama.cpp's own bytes where it can, and else with a word for that."""

from __future__ import annotations

import asyncio
import functools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from router import validation
from router.cli import app
from router.domain.errors import ModelRefused
from router.domain.models import EngineOptions, Footprint
from router.runtime.spares import Spares
from router.validation import _Asked
from tests.engine import refused, tiny

MODELS = "models:\n  a: {path: a.gguf, context: 256, slots: 1}\n"
TIGHT = "version: 1\ndevices: {host: {budget: 45MiB}}\n"
"""More than llama.cpp takes for the model, less than the formula says."""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROUTER_CACHE", str(tmp_path / "cache"))
    tiny.llama(tmp_path / "a.gguf")
    path = tmp_path / "registry.yaml"
    path.write_text(TIGHT + MODELS)
    return path


@pytest.fixture
def without_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker process that ends at once."""
    broken = functools.partial(Spares, command=(sys.executable, "-c", "raise SystemExit(1)"))
    monkeypatch.setattr(validation, "Spares", broken)


def check(registry: Path, *flags: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["check", *flags, str(registry)])


def facts(registry: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(check(registry, "--json").stdout)
    return found


def test_what_llama_cpp_says_decides_and_not_the_formula(registry: Path) -> None:
    result = check(registry)
    assert result.exit_code == 0, result.output
    assert "at most 1 of" not in result.stdout
    (model,) = facts(registry)["models"]
    assert (model["fits"], model["exact"]) == (True, True)


@pytest.mark.usefixtures("without_an_engine")
def test_without_an_engine_bytes_are_at_most_so_many_and_nothing_is_claimed(registry: Path) -> None:
    result = check(registry)
    assert result.exit_code == 0, result.output
    assert "at most 5" in result.stdout
    assert "perhaps: at most, it needs " in result.stdout
    assert "llama.cpp could not be asked" in result.stderr
    found = facts(registry)
    assert (found["models"][0]["fits"], found["models"][0]["exact"]) == (None, False)
    assert found["not_asked"]


@pytest.mark.usefixtures("without_an_engine")
def test_without_an_engine_weights_over_the_budget_are_wrong_all_the_same(registry: Path) -> None:
    registry.write_text(TIGHT.replace("45MiB", "50KiB") + MODELS)
    result = check(registry)
    assert result.exit_code == 2
    assert "no: needs " in result.stdout


def test_an_earlier_dry_run_is_enough(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = facts(registry)

    async def none(*_: object) -> tuple[None, str]:
        raise AssertionError("it was asked again")

    monkeypatch.setattr(validation.ProcessLauncher, "dry_run", none)
    assert facts(registry) == before


def test_what_llama_cpp_refuses_is_wrong(registry: Path) -> None:
    make, reason = refused.EVERY["unknown"]
    make(registry.parent / "a.gguf")
    for _ in range(2):  # once by asking, once by the cache
        result = check(registry)
        assert result.exit_code == 2
        assert (
            f"registry.yaml:4:3: models.a: llama.cpp could not load {registry.parent}/a.gguf: "
            in result.stderr
        )
        assert reason in result.stderr


def test_missing_files_alone_have_a_status_of_their_own(registry: Path) -> None:
    registry.write_text(
        TIGHT + MODELS + "  b: {path: b.gguf}\n  c: {path: {package: nowhere-9, file: x.gguf}}\n"
    )
    assert check(registry).exit_code == 3
    assert facts(registry)["missing"] == ["b", "c"]
    registry.write_text(registry.read_text() + "  d: {path: registry.yaml}\n")  # there, and no model
    assert check(registry).exit_code == 2


def test_a_part_that_is_missing_is_a_missing_file(registry: Path) -> None:
    tiny.llama(registry.parent / "s.gguf", split=4)
    parts = sorted(registry.parent.glob("s-*.gguf"))
    parts[-1].unlink()
    registry.write_text(TIGHT + f"models:\n  s: {{path: {parts[0].name}, context: 256}}\n")
    assert check(registry).exit_code == 3


@pytest.mark.usefixtures("without_an_engine")
def test_syntax_only_looks_at_no_file_and_at_no_device(registry: Path) -> None:
    registry.write_text(
        "version: 1\ndevices: {gpu0: {budget: 80%}, gpu7: {budget: 80%}}\nmodels:\n  b: {path: /no/b.gguf}\n"
    )
    assert check(registry).exit_code == 2
    result = check(registry, "--syntax-only")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "1 models; their files were not looked at" in result.stdout
    assert json.loads(check(registry, "--syntax-only", "--json").stdout)["models"] == ["b"]


@pytest.mark.parametrize(
    "text",
    [
        "version: 1\nmodels: {a: {path: a.gguf, contxt: 1}}\n",
        "version: 1\ndevices: {gpu: {budget: 1GiB}}\nmodels: {a: {path: a.gguf}}\n",
        "version: 1\ndevices: {auto: {budget: 80}}\nmodels: {a: {path: a.gguf}}\n",
        "version: 1\nmodels: {a: {path: a.gguf, fallback: [b]}}\n",
    ],
)
def test_syntax_only_finds_what_is_wrong_in_the_text(registry: Path, text: str) -> None:
    registry.write_text(text)
    assert check(registry, "--syntax-only").exit_code == 2


# Time ------------------------------------------------------------------------------------------------------


class Slow:
    """A launcher whose dry runs never end."""

    async def build(self) -> str:
        return "b"

    async def dry_run(self, path: str, options: EngineOptions) -> tuple[dict[str, Footprint] | None, str]:
        if path == "odd":
            raise ModelRefused("odd")
        await asyncio.sleep(3600)
        raise AssertionError("unreachable")


async def test_dry_runs_end_together_and_one_that_takes_long_is_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(validation, "QUIET_SECONDS", 0.001)
    told: list[str] = []
    slow: Any = Slow()
    asked = _Asked(slow, told.append, 0.1)
    for name in ("a", "b"):
        assert await asked.dry_run(name, EngineOptions()) == (None, "the time for dry runs is over")
    assert told == ["asking llama.cpp what a takes ..."]
    assert asked.lacks == "the time for dry runs is over"


async def test_a_refusal_is_handed_on() -> None:
    slow: Any = Slow()
    with pytest.raises(ModelRefused):
        await _Asked(slow, print, 5).dry_run("odd", EngineOptions())
