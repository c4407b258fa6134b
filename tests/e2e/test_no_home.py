"""Without a home every command says in a sentence what to do, or does not need one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from subprocess import DEVNULL

import pytest

from tests.e2e import homeless
from tests.e2e.echo import ask, registry, serving
from tests.e2e.gateway import write_registry

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
TRACE = ("--trace", str(ROOT / "config" / "examples" / "trace.csv"))


def router(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *homeless.COMMAND, *arguments],
        env=homeless.environment() | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("serve", "--port", "0", "--registry"), 2),
        (("check",), 2),
        (("simulate", *TRACE, "--registry"), 2),
        (("demo",), 1),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_command_that_needs_a_home_says_what_to_set(
    tmp_path: Path, arguments: tuple[str, ...], status: int
) -> None:
    path = () if arguments == ("demo",) else (str(registry(tmp_path)),)
    done = router(*arguments, *path)
    assert done.returncode == status
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert "HOME is not set" in line
    assert "set ROUTER_CACHE to a folder" in line


@pytest.mark.parametrize("arguments", [("version",), ("schema",), ("--help",)], ids=lambda a: a[0])
def test_a_command_that_needs_no_home_does_its_work(arguments: tuple[str, ...]) -> None:
    done = router(*arguments)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_command_that_asks_a_gateway_needs_no_home(tmp_path: Path) -> None:
    done = router("ls", "--url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no gateway answers")


def test_paths_of_the_registry_that_lead_home_are_problems_with_their_line(tmp_path: Path) -> None:
    cloud = {
        "base_url": "https://api.example.com/v1",
        "model": "m",
        "api_key": {"file": "~/key"},
        "ca_file": "~/ca.pem",
    }
    path = write_registry(tmp_path / "registry.yaml", {"a": {"path": "~/a.gguf"}}, cloud={"big": cloud})
    done = router("check", "--json", str(path), ROUTER_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 2
    said = json.loads(done.stdout)["errors"]
    assert len(said) == 2
    assert all("HOME is not set" in line and f"{path}:" in line for line in said)
    path = write_registry(tmp_path / "registry.yaml", {"a": {"path": "~/a.gguf"}})
    done = router("check", str(path), ROUTER_CACHE=str(tmp_path / "cache"))
    assert "Traceback" not in done.stderr
    assert "~/a.gguf: HOME is not set" in done.stdout + done.stderr


@pytest.mark.parametrize("cache", ["cache", "/proc/nowhere"], ids=["writable", "not-writable"])
def test_with_a_place_for_its_files_the_gateway_serves_without_a_home(tmp_path: Path, cache: str) -> None:
    env = dict.fromkeys(homeless.HOMES) | {"ROUTER_CACHE": str(tmp_path / cache)}
    with (tmp_path / "gateway.log").open("wb") as log:
        served = serving(
            registry(tmp_path),
            stdout=DEVNULL,
            stderr=log,
            program=homeless.COMMAND,
            env=env,
        )
        with served as gateway:
            gateway.wait()
            assert ask(gateway) == 200
    assert "Traceback" not in (tmp_path / "gateway.log").read_text()
