"""One run's settings: where the cache is, and that nothing changes while it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from router import settings
from router.settings import Settings, cache_home, state_home


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ROUTER_CACHE", "XDG_CACHE_HOME", "ROUTER_STATE", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/ada")


def test_the_cache_is_where_the_user_or_the_desktop_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_home() == Path("/home/ada/.cache/router")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/x")
    assert cache_home() == Path("/var/x/router")
    monkeypatch.setenv("ROUTER_CACHE", "~/mine")
    assert cache_home() == Path("/home/ada/mine")


def test_what_was_spent_is_kept_where_the_cache_is_unless_it_has_a_place_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert state_home() == Path("/home/ada/.local/state/router")
    monkeypatch.setenv("XDG_STATE_HOME", "/var/x")
    assert state_home() == Path("/var/x/router")
    monkeypatch.setenv("ROUTER_CACHE", "/var/cache/router")
    assert state_home() == Path("/var/cache/router")
    monkeypatch.setenv("ROUTER_STATE", "~/mine")
    assert state_home() == Path("/home/ada/mine")
    assert Settings(registry=Path("registry.yaml")).state == Path("/home/ada/mine")


@pytest.mark.parametrize("empty", ["ROUTER_CACHE", "XDG_CACHE_HOME"])
def test_an_empty_variable_counts_as_none(monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    monkeypatch.setenv(empty, "")
    assert cache_home() == Path("/home/ada/.cache/router")


def test_the_defaults_serve_this_machine_only() -> None:
    settings = Settings(registry=Path("registry.yaml"))
    assert (settings.host, settings.port, settings.allow_open) == ("127.0.0.1", 8080, False)
    assert settings.cache == Path("/home/ada/.cache/router")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Settings(registry=Path("registry.yaml")).port = 1  # type: ignore[misc]


def test_loopback_is_what_only_this_machine_reaches() -> None:
    hosts = ("127.0.0.1", "127.8.0.1", "localhost", "::1", "0.0.0.0", "::", "192.168.1.2")
    found = [Settings(registry=Path("registry.yaml"), host=host).loopback for host in hosts]
    assert found == [True, True, True, True, False, False, False]


@pytest.mark.parametrize(("processors", "spares"), [(1, 1), (3, 1), (4, 2), (64, 2)])
def test_more_spares_are_kept_where_they_can_start_beside_loads(
    monkeypatch: pytest.MonkeyPatch, processors: int, spares: int
):
    monkeypatch.setattr(settings.os, "sched_getaffinity", lambda _: set(range(processors)))
    assert settings.warm() == spares
    assert Settings(registry=Path("r.yaml")).spares == spares
