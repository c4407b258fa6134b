"""The scrape configuration and the alerts: metrics that exist, and promtool's word where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from router.telemetry import Metrics

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((DEPLOY / "rules.yml").read_text())["groups"] for rule in group["rules"]
]
every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])


def series() -> dict[str, set[str]]:
    """Name of each series that the gateway can expose -> its labels."""
    found: dict[str, set[str]] = {}
    for collector in vars(Metrics()).values():
        kind = getattr(collector, "_type", None)
        if kind is None:
            continue
        labels = set(collector._labelnames)
        endings = {
            "counter": ["_total"],
            "histogram": ["_bucket", "_sum", "_count"],
            "summary": ["_sum", "_count"],
        }.get(kind, [""])
        for ending in endings:
            found[collector._name + ending] = labels | ({"le"} if ending == "_bucket" else set())
    return found


@every_rule
def test_an_alert_asks_only_for_series_that_exist(rule: dict[str, Any]) -> None:
    named = set(re.findall(r"\brouter_\w+", rule["expr"]))
    assert named <= set(series())


@every_rule
def test_an_alert_asks_only_for_labels_that_its_series_have(rule: dict[str, Any]) -> None:
    known = series()
    for name, matchers in re.findall(r"\b(router_\w+)\{([^}]*)\}", rule["expr"]):
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) <= known[name]
    grouped = {label for by in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in by.split(", ")}
    assert grouped <= {label for name in re.findall(r"\brouter_\w+", rule["expr"]) for label in known[name]}


@every_rule
def test_an_alert_says_what_happened_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert set(rule["annotations"]) == {"summary", "action"}


@every_rule
def test_the_text_of_an_alert_uses_labels_that_its_result_carries(rule: dict[str, Any]) -> None:
    used = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    known = series()
    carried = {label for name in re.findall(r"\brouter_\w+", rule["expr"]) for label in known[name]}
    assert used <= carried


def test_the_scrape_configuration_loads_these_rules() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    assert [DEPLOY / name for name in config["rule_files"]] == [DEPLOY / "rules.yml"]
    assert config["scrape_configs"][0]["job_name"] == "router"


@pytest.mark.parametrize(
    "arguments", [("config", "prometheus.yml"), ("rules", "rules.yml")], ids=lambda a: a[0]
)
def test_promtool_where_there_is_one_agrees(arguments: tuple[str, str]) -> None:
    what, name = arguments
    assert yaml.safe_load((DEPLOY / name).read_text())
    if promtool := shutil.which("promtool"):
        command = [promtool, "check", what, str(DEPLOY / name)]
        checked = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_promtool_where_there_is_one_accepts_what_the_gateway_exposes() -> None:
    metrics = Metrics()
    metrics.requests.labels("a", "200", "stop").inc()
    metrics.first_token.observe(0.1)
    text = metrics.render()
    assert b'router_requests_total{code="200",finish="stop",model="a"} 1.0' in text
    if promtool := shutil.which("promtool"):
        checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=60)
        assert checked.returncode == 0, checked.stdout + checked.stderr
