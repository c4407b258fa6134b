"""What Prometheus gets: the text always, a real Prometheus with our rules where one is installed."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import yaml

from tests.e2e.gateway import Gateway, end, free_port, running, write_registry

DEPLOY = Path(__file__).parents[2] / "deploy"


@contextlib.contextmanager
def prometheus(program: str, gateway: Gateway, folder: Path) -> Iterator[str]:
    """Our own configuration, aimed at this gateway and made impatient."""
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DEPLOY / "rules.yml")]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [gateway.url.removeprefix("http://")]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        yield f"http://{address}/api/v1"
    finally:
        end(process)


def eventually(url: str, found: Any, seconds: float = 45) -> Any:
    """Ask until `found` says that the answer is there."""
    until = time.monotonic() + seconds
    answer: Any = None
    while time.monotonic() < until:
        with contextlib.suppress(httpx2.TransportError, ValueError):
            answer = httpx2.get(url, trust_env=False).json()
            if found(answer):
                return answer
        time.sleep(0.3)
    raise AssertionError(f"{url} still answers {answer}")


def test_a_scrape_has_every_model_and_a_real_prometheus_reads_it(
    tmp_path: Path, demo_models: dict[str, Path]
) -> None:
    models: dict[str, dict[str, object]] = {"a": {"path": str(demo_models["q4_1"])}}
    registry = write_registry(tmp_path / "registry.yaml", models, devices={"host": {"budget": "4GiB"}})
    with running(registry, tmp_path, "--backend", "echo") as gateway:
        gateway.http.post("/v1/completions", json={"model": "a", "prompt": "hello", "max_tokens": 4})
        assert gateway.total("router_requests_total", model="a", code="200") == 1
        if program := shutil.which("prometheus"):
            with prometheus(program, gateway, tmp_path) as api:
                query = f"{api}/query?query=router_requests_total"
                (series,) = eventually(query, lambda a: a["data"]["result"])["data"]["result"]
                assert series["metric"]["model"] == "a"
                groups = eventually(f"{api}/rules", rules_evaluated)["data"]["groups"]
                assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}


def rules_evaluated(answer: Any) -> bool:
    rules = [rule for group in answer["data"]["groups"] for rule in group["rules"]]
    return bool(rules) and all(rule["health"] != "unknown" for rule in rules)
