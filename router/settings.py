"""What may not change while the gateway runs: flags and ROUTER_* variables. Frozen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from router.domain.errors import RouterError


class NoHome(RouterError):
    """A place is named by somebody's home, and there is none. The message says what to set instead."""


def expanded(text: str) -> Path:
    """A path with its `~` replaced. Raises NoHome: for an unknown user, and in a container for its own."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        if text.partition("/")[0] == "~":
            who = f"HOME is not set, and the user id {os.getuid()} has no entry in /etc/passwd"
            raise NoHome(f"{text}: {who}") from None
        raise NoHome(f"{text}: there is no such user") from None


def cache_home() -> Path:
    """
    Where models and measurements are kept: $ROUTER_CACHE, else $XDG_CACHE_HOME/router, else ~/.cache/router.

    Raises NoHome.
    """
    if explicit := os.environ.get("ROUTER_CACHE"):
        return expanded(explicit)
    return _beside_home("XDG_CACHE_HOME", "~/.cache", "ROUTER_CACHE")


def state_home() -> Path:
    """
    Where what must not be lost is kept: what was spent. $ROUTER_STATE; else with the cache where $ROUTER_CACHE names a
    place, as images and the systemd unit do; else $XDG_STATE_HOME/router, else ~/.local/state/router. Raises NoHome.
    """
    if explicit := os.environ.get("ROUTER_STATE") or os.environ.get("ROUTER_CACHE"):
        return expanded(explicit)
    return _beside_home("XDG_STATE_HOME", "~/.local/state", "ROUTER_STATE")


def _beside_home(variable: str, usual: str, instead: str) -> Path:
    try:
        return expanded(os.environ.get(variable) or usual) / "router"
    except NoHome as error:
        raise NoHome(f"{error.message}; set {instead} to a folder that may be written") from None


MANY_CORES = 4
"""From here on a new spare may start while a model loads: its import takes a core for a second."""


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def warm() -> int:
    """
    How many spares are kept unless the operator says otherwise.

    Two where they start beside loads: then swaps in a row, each shorter than the start of a worker, do not wait for it.
    """
    return 2 if cores() >= MANY_CORES else 1


class Settings(msgspec.Struct, frozen=True):
    """One run of `router serve`. Durations are seconds, sizes bytes."""

    registry: Path
    host: str = "127.0.0.1"
    port: int = 8080
    log_level: str = "info"
    log_json: bool | None = None
    drain_seconds: float = 30.0
    """How long requests in flight may run on after SIGTERM."""
    max_body: int = 8 * 2**20
    """Some two million tokens. One request may cost up to eight times as much for a moment (G20)."""
    max_bodies: int = 128 * 2**20
    """Of all requests that wait or run."""
    comment_seconds: float = 2.0
    """Time between SSE comments while a stream waits."""
    commit_seconds: float = 1.0
    """How long a stream may wait for its first token before the status line is committed to 200."""
    allow_open: bool = False
    """Serve on an address that is not loopback without keys."""
    allow_hosts: tuple[str, ...] = ()
    """Names under which a gateway without keys answers, besides those of loopback."""
    cors_origins: tuple[str, ...] = ()
    """Origins of the web pages that may use the gateway; "*" for all."""
    spares: int = msgspec.field(default_factory=warm)
    """Warm workers without a model."""
    sandbox: str = "auto"
    """What workers give up: see `protocol.sandbox_layers`."""
    backend: Literal["llama", "echo"] = "llama"
    """"echo" serves without llama.cpp: for tests of the house itself."""
    cache: Path = msgspec.field(default_factory=cache_home)
    state: Path = msgspec.field(default_factory=state_home)

    @property
    def loopback(self) -> bool:
        """Only this machine reaches the address that is listened on."""
        return self.host in {"localhost", "::1"} or self.host.startswith("127.")
