"""Streams of a whole gateway, read by real clients: how they end, and what they say while nothing comes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.e2e.gateway import Gateway

pytestmark = [pytest.mark.model, pytest.mark.timeout(240)]


def finishes(gateway: Gateway) -> list[str]:
    """Of all requests that generate, as the access log has them, oldest first."""
    lines = [line for line in gateway.log.read_text().splitlines() if "completions" in line]
    return [found[1] for line in lines if (found := re.search(r"finish\W+(stop|length|error|left)\b", line))]


def counted(gateway: Gateway) -> dict[str, int]:
    found: dict[str, int] = {}
    for (name, labels), value in gateway.metrics().items():
        if name == "router_requests_total":
            finish = dict(labels)["finish"]
            found[finish] = found.get(finish, 0) + int(value)
    return found


def curl(gateway: Gateway, body: dict[str, object]) -> str:
    command = ["curl", "--silent", "--no-buffer", "--max-time", "60", f"{gateway.url}/v1/completions"]
    command += ["--header", "content-type: application/json", "--data-raw", json.dumps(body)]
    env = {**os.environ, "no_proxy": "*"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout


def test_how_requests_ended_is_told_by_what_was_sent_last(start: Start) -> None:
    gateway = start()
    body = {"model": "a", "prompt": "Once upon a time", "max_tokens": 3}
    assert curl(gateway, {**body, "stream": True}).endswith("data: [DONE]\n\n")
    assert '"length"' in curl(gateway, body)
    stream = gateway.openai.completions.create(model="a", prompt="Hi", max_tokens=3, stream=True)
    assert list(stream)[-1].choices[0].finish_reason == "length"
    stream = gateway.openai.completions.create(
        model="a", prompt="Hi", max_tokens=900, stream=True, stop=["e"]
    )
    assert list(stream)[-1].choices[0].finish_reason == "stop"
    assert "context_length_exceeded" in curl(gateway, {**body, "prompt": "word " * 2000, "stream": True})
    endless = {**body, "max_tokens": 900, "ignore_eos": True, "stream": True}
    with gateway.http.stream("POST", "/v1/completions", json=endless) as response:
        next(response.iter_lines())
    gateway.until(lambda: len(finishes(gateway)) == 6)
    assert finishes(gateway) == ["length", "length", "length", "stop", "error", "left"]
    assert counted(gateway) == {"length": 3, "stop": 1, "error": 1, "left": 1}


@pytest.fixture
def slow(start: Start, demo_models: dict[str, Path], tmp_path: Path) -> Gateway:
    """A model that needs a tenth of a second for 64 tokens of a prompt: its file's name is the echo's script."""
    path = tmp_path / "slow.gguf?step_ms=100"
    path.symlink_to(demo_models["q4_1"])
    models: dict[str, dict[str, object]] = {
        "a": {"path": str(path), "context": 4096, "slots": 1, "ubatch": 64}
    }
    return start("--backend", "echo", models=models, budget="900MiB")


def test_a_stream_whose_prompt_is_read_says_so_and_how_far(slow: Gateway) -> None:
    slow.openai.completions.create(model="a", prompt="x", max_tokens=1)  # loaded: nothing to wait for
    lines = curl(slow, {"model": "a", "prompt": "x" * 4000, "max_tokens": 2, "stream": True}).splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith("data: "))
    read = [re.fullmatch(r": reading the prompt, (\d+) %", line) for line in lines[:first] if line]
    assert read[-1] is None, "the facts come last"
    known = [int(found[1]) for found in read[:-1] if found]
    assert len(known) == len(read) - 1 >= 2
    assert known == sorted(known)
    assert 0 < known[-1] < 100


def test_a_stream_that_waits_tells_its_facts_in_a_comment_before_its_first_event(slow: Gateway) -> None:
    slow.openai.completions.create(model="a", prompt="x", max_tokens=1)
    body: dict[str, object] = {"model": "a", "prompt": "x" * 1500, "max_tokens": 2, "stream": True}
    with slow.http.stream("POST", "/v1/completions", json=body) as response:
        names = {name for name in response.headers if name.startswith("x-router-")}
        text = response.read().decode()
    assert names == set()
    before = text[: text.index("data: ")].split("\n\n")
    told = dict(fact.split("=") for fact in before[-2].removeprefix(": ").split())
    assert told.keys() == {"served-by", "queue-ms", "load-ms", "attempts"}
    whole = slow.http.post("/v1/completions", json={**body, "stream": False})
    assert {f"x-router-{name}" for name in told} <= set(whole.headers)
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert "`: served-by=" in readme
