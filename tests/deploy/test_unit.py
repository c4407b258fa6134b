"""The systemd unit: its shape always, systemd's own word where systemd-analyze is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from router.cli import FAILED

UNIT = Path(__file__).parents[2] / "deploy" / "router.service"
LINE = re.compile(r"([A-Z]\w*)=(.*)")


@pytest.fixture(scope="module")
def service() -> dict[str, list[str]]:
    """Setting -> values, of the whole unit."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            match = LINE.fullmatch(line)
            assert match is not None, line
            found.setdefault(match[1], []).append(match[2])
    return found


@pytest.fixture
def runnable(tmp_path: Path) -> Path:
    """The unit with a program that this machine has, so that systemd-analyze looks at the rest."""
    unit = tmp_path / "router.service"
    unit.write_text(UNIT.read_text().replace("/opt/router/bin/router", "/bin/sh"))
    return unit


def systemd() -> int:
    """The version of systemd-analyze; 0 when there is none."""
    if shutil.which("systemd-analyze") is None:
        return 0
    said = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, timeout=60).stdout
    return int(re.findall(r"\d+", said)[0])


def analyze(*arguments: str) -> list[str]:
    """What systemd-analyze says of the unit. Its exit status must be 0."""
    command = ["systemd-analyze", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return [line for line in said.splitlines() if "router.service" in line]


def test_the_unit_has_its_three_parts() -> None:
    assert re.findall(r"^\[(\w+)\]$", UNIT.read_text(), re.MULTILINE) == ["Unit", "Service", "Install"]


def test_a_wrong_registry_does_not_make_it_start_again_and_again(service: dict[str, list[str]]) -> None:
    assert service["Restart"] == ["on-failure"]
    assert service["RestartPreventExitStatus"] == ["2"]


def test_a_gateway_that_broke_is_started_again(service: dict[str, list[str]]) -> None:
    assert str(FAILED) not in service["RestartPreventExitStatus"][0].split()
    assert "SuccessExitStatus" not in service
    compose = (UNIT.parent / "compose.yaml").read_text()
    assert compose.split("prometheus:")[0].count("restart: unless-stopped") == 1


def test_a_reload_is_the_signal_that_reads_the_registry_again(service: dict[str, list[str]]) -> None:
    assert service["ExecReload"] == ["/bin/kill -HUP $MAINPID"]


def test_sigterm_reaches_the_gateway_alone_and_it_has_time_to_drain(service: dict[str, list[str]]) -> None:
    assert service["KillMode"] == ["mixed"]
    assert int(service["TimeoutStopSec"][0]) > 30


def test_it_runs_without_root_and_without_a_way_to_it(service: dict[str, list[str]]) -> None:
    assert service["User"] == ["router"]
    assert service["NoNewPrivileges"] == ["yes"]
    assert service["CapabilityBoundingSet"] == [""]


def test_systemd_where_there_is_one_finds_no_fault(runnable: Path) -> None:
    assert "ExecStart=/bin/sh serve" in runnable.read_text()
    if systemd():
        assert analyze("verify", str(runnable)) == []


def test_systemd_where_there_is_one_calls_it_well_guarded(runnable: Path) -> None:
    assert "ProtectSystem=strict" in runnable.read_text()
    if systemd() >= 250:  # the first with --offline
        said = analyze("security", "--offline=true", "--no-pager", "--threshold=25", str(runnable))
        assert "OK" in said[-1]
