from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from router.cli import app
from router.simulate import trace, workload
from router.sizing.devices import Device

EXAMPLES = Path(__file__).parents[2] / "config" / "examples"
EIGHT = EXAMPLES / "eight-models.yaml"
TRACE = EXAMPLES / "trace.csv"
NAMES = ("chat", "code", "mail", "search", "notes", "tickets", "translate", "lab")
ASSUMED = [word for name in NAMES for word in ("--assume", f"{name}=800MB")]
"""So that nothing here needs the models' files."""


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["simulate", *arguments])


def facts(*arguments: str) -> dict[str, Any]:
    done = run("--registry", str(EIGHT), *ASSUMED, "--json", *arguments)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refusal(*arguments: str) -> str:
    done = run("--registry", str(EIGHT), *ASSUMED, *arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    return done.stderr


def test_the_shipped_trace_is_the_one_that_the_generator_makes(tmp_path: Path) -> None:
    trace.write(tmp_path / "trace.csv", workload.synthetic(NAMES, 600, 0.5))
    assert (tmp_path / "trace.csv").read_text() == TRACE.read_text(), (
        "the generator changed: router simulate --registry config/examples/eight-models.yaml --requests 600 "
        "--rate 0.5 --write config/examples/trace.csv"
    )


def test_the_shipped_registry_and_trace_are_replayed() -> None:
    found = facts("--trace", str(TRACE))
    assert {one["policy"]: one["requests"] for one in found["policies"]}["lru"] == 600
    assert all(one["answered"] > 590 for one in found["policies"])
    assert set(found["policies"][0]["by_model"]) == set(NAMES)


def test_the_same_input_and_seed_give_the_same_output() -> None:
    assert facts("--requests", "200") == facts("--requests", "200")
    assert facts("--requests", "200") != facts("--requests", "200", "--seed", "2")


def test_a_table_is_for_people() -> None:
    done = run(
        "--registry", str(EIGHT), *ASSUMED, "--trace", str(TRACE), "--policy", "lru,fifo", "--requests", "50"
    )
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("50 requests in ")
    assert [line.split()[0] for line in lines[2:5]] == ["policy", "lru", "fifo"]
    assert "at most so much" in lines[-1]
    assert any(line.startswith("translate") for line in lines)


def test_an_azure_trace_gets_its_models_from_the_registry(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    rows = "".join(f"2023-11-16 18:15:{n:02d}.6805900,374,44\n" for n in range(60))
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    found = facts("--trace", str(path), "--time-scale", "10", "--policy", "lru", "--models", "chat,lab")
    assert set(found["policies"][0]["by_model"]) == {"chat", "lab"}
    assert found["policies"][0]["end"] > 590


def test_more_memory_is_fewer_swaps(tmp_path: Path) -> None:
    roomy = tmp_path / "roomy.yaml"
    roomy.write_text(EIGHT.read_text().replace("2200MB", "7GB"))
    tight = facts("--trace", str(TRACE), "--policy", "lru")["policies"][0]
    done = run("--registry", str(roomy), *ASSUMED, "--trace", str(TRACE), "--policy", "lru", "--json")
    assert json.loads(done.stdout)["policies"][0]["swaps"] == 8 < tight["swaps"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--policy", "best"], "--policy: there is no 'best'; there are "),
        (["--policy", ","], "--policy: name some of "),
        (["--models", "chat,chess"], "has no model 'chess'"),
        (["--assume", "chess=1GiB"], "has no model 'chess'"),
        (["--assume", "chat"], "--assume chat: expected a size such as 9GiB"),
        (["--assume", "chat=-1GiB"], "--assume chat=-1GiB: expected"),
        (["--models-max", "5"], "--models-max 5: the budget holds 2 of the largest models at once"),
        (["--write", "/nowhere/at/all.csv"], "--write: /nowhere/at/all.csv: No such file"),
        (["--trace", "/nowhere/at/all.csv"], "/nowhere/at/all.csv: cannot be read"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_plain_words(arguments: list[str], words: str) -> None:
    assert words in refusal(*arguments)


@pytest.mark.parametrize(
    "arguments", [["--decode", "0"], ["--slo", "nan"], ["--rate", "inf"], ["--read", "nan"]]
)
def test_a_rate_is_a_number_above_zero(arguments: list[str]) -> None:
    assert run("--registry", str(EIGHT), *ASSUMED, *arguments).exit_code == 2


def test_every_wrong_line_of_a_trace_is_told_and_none_of_it_replayed(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("arrival,model,prompt_tokens,output_tokens\n0,chat,10,5\n1,chess,10,5\n2,chat,many,5\n")
    assert refusal("--trace", str(path)).splitlines() == [
        f"error: {path}:3: model: the registry has no 'chess'",
        f"error: {path}:4: prompt_tokens: 'many' is no whole number from 1 to 10000000",
    ]


def test_a_model_without_its_file_is_told_how_to_be_simulated(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text("version: 1\ndevices: {host: {budget: 8GiB}}\nmodels: {big: {path: /nowhere/big.gguf}}\n")
    done = run("--registry", str(path), "--json")
    assert done.exit_code == 2
    assert "--assume big=5GiB" in json.loads(done.stdout)["errors"][0]
    assert run("--registry", str(path), "--assume", "big=5GiB", "--requests", "5").exit_code == 0


def test_a_registry_that_is_wrong_is_told_with_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text("version: 1\nmodles: {}\n")
    done = run("--registry", str(path))
    assert done.exit_code == 2
    assert f"{path}:2:1" in done.stderr


def test_a_model_of_an_assumed_size_may_be_held_by_each_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cards = tuple(Device(f"gpu{n}", "cuda", 8 << 30, 8 << 30, f"GPU-{n}") for n in range(2))
    monkeypatch.setattr(
        "router.sizing.devices.detect", lambda: (*cards, Device("host", "cpu", 1 << 34, 1 << 34))
    )
    path = tmp_path / "registry.yaml"
    path.write_text("version: 1\nmodels: {a: {path: a.gguf}, b: {path: b.gguf}}\n")
    words = (
        "--registry",
        str(path),
        "--assume",
        "a=5GiB",
        "--assume",
        "b=5GiB",
        "--requests",
        "40",
        "--json",
    )
    done = run(*words)
    assert done.exit_code == 0, done.output
    for policy in json.loads(done.stdout)["policies"]:
        assert policy["most_bytes"] == {"gpu0": 5 << 30, "gpu1": 5 << 30}, policy["policy"]
