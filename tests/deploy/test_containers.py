"""The images and the compose file, as far as they can be checked without a container engine."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from router.api.errors import WrongHost
from router.api.origins import check_host
from router.cli import app

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILES = [DEPLOY / "Dockerfile.cpu", DEPLOY / "Dockerfile.cuda"]
both = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """(INSTRUCTION, arguments) of each line, continuations joined, comments dropped."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def arguments(dockerfile: Path, name: str) -> list[str]:
    return [rest for instruction, rest in instructions(dockerfile) if instruction == name]


@both
def test_an_image_has_only_known_instructions(dockerfile: Path) -> None:
    build = {"FROM", "RUN", "COPY", "ARG", "ENV", "WORKDIR"}
    run = {"USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert {instruction for instruction, _ in instructions(dockerfile)} <= build | run


@both
def test_an_image_copies_only_what_is_there_and_not_ignored(dockerfile: Path) -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for rest in arguments(dockerfile, "COPY"):
        if not rest.startswith("--from"):
            source = rest.split()[0]
            assert (ROOT / source).exists()
            assert source in allowed


@both
def test_an_image_is_built_in_two_stages_and_runs_without_root(dockerfile: Path) -> None:
    assert len(arguments(dockerfile, "FROM")) == 2
    assert arguments(dockerfile, "USER") == ["10001"]
    assert instructions(dockerfile)[-2:] == [
        ("ENTRYPOINT", '["router"]'),
        ("CMD", '["serve", "--host", "0.0.0.0", "--port", "8080", "--json"]'),
    ]


@both
def test_an_image_asks_readyz_whether_it_is_healthy(dockerfile: Path) -> None:
    (check,) = arguments(dockerfile, "HEALTHCHECK")
    assert "http://127.0.0.1:8080/readyz" in check


@both
def test_an_image_finds_the_pinned_engine_in_pyproject(dockerfile: Path) -> None:
    (pattern,) = re.findall(r"grep -o '([^']+)'", dockerfile.read_text())
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    pinned = [d for d in dependencies if d.startswith("llama-cpp-python")]
    assert re.findall(pattern, (ROOT / "pyproject.toml").read_text()) == pinned


@both
def test_every_setting_of_an_image_is_one_that_router_reads(dockerfile: Path) -> None:
    named = set(re.findall(r"ROUTER_\w+", "\n".join(rest for _, rest in instructions(dockerfile))))
    assert named <= environment_variables()


def environment_variables() -> set[str]:
    """Every ROUTER_* variable that the command line or the settings read."""
    command = get_command(app)
    verbs: dict[str, Any] = command.commands  # type: ignore[attr-defined]
    read = {str(p.envvar) for verb in verbs.values() for p in verb.params if getattr(p, "envvar", None)}
    return read | set(re.findall(r"ROUTER_\w+", (ROOT / "router" / "settings.py").read_text()))


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def default_of(text: str) -> str:
    """A compose string with its ${NAME:-default} replaced by the defaults."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_compose_builds_a_dockerfile_that_is_there(compose: Any) -> None:
    build = compose["services"]["router"]["build"]
    context = (DEPLOY / build["context"]).resolve()
    assert context == ROOT
    assert (context / default_of(build["dockerfile"])) in DOCKERFILES


def test_compose_mounts_files_that_are_there_or_volumes_that_it_declares(compose: Any) -> None:
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source = default_of(volume).split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), volume
            else:
                assert source in compose["volumes"], volume


def test_compose_publishes_on_loopback_only(compose: Any) -> None:
    ports = [port for service in compose["services"].values() for port in service["ports"]]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_sets_only_what_router_reads_and_gives_it_time_to_drain(compose: Any) -> None:
    service = compose["services"]["router"]
    assert set(service["environment"]) <= environment_variables()
    assert int(service["stop_grace_period"].rstrip("s")) > 30


def test_prometheus_scrapes_the_service_under_the_name_that_compose_gives_it(compose: Any) -> None:
    scraped = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    (target,) = scraped["scrape_configs"][0]["static_configs"][0]["targets"]
    assert target.split(":")[0] in compose["services"]


def test_the_gateway_of_compose_answers_to_prometheus_to_its_own_probe_and_to_this_machine(
    compose: Any,
) -> None:
    allowed = compose["services"]["router"]["environment"]["ROUTER_ALLOW_HOST"].split()
    scraped = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    (target,) = scraped["scrape_configs"][0]["static_configs"][0]["targets"]
    for host in (target, "127.0.0.1:8080", "localhost:8080"):
        check_host(host, loopback=False, allowed=allowed)
    with pytest.raises(WrongHost):
        check_host("evil.example:8080", loopback=False, allowed=allowed)
