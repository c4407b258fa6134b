"""
Which engine a worker runs: llama.cpp, or the scripted echo.

The one rule: nothing of llama.cpp is imported until `backend("llama")` is called, and then all of it,
so that a spare has paid for the import and the device's start before it says Hello.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from router.domain.models import EngineOptions, Footprint
from router.engine.engine import Engine

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Kind:
    """One engine before it has a model. `build` names it in the keys of cached measurements."""

    name: Literal["llama", "echo"]
    build: str
    gpu_offload: bool
    load: Callable[[str, EngineOptions, Progress], Engine]
    dry_run: Callable[[str, EngineOptions], dict[str, Footprint]]


def backend(name: Literal["llama", "echo"]) -> Kind:
    """Import one engine and initialise it."""
    return _llama() if name == "llama" else _echo()


def _llama() -> Kind:
    from router.engine import llama

    def load(path: str, options: EngineOptions, progress: Progress) -> Engine:
        return Engine(llama.load(path, options, progress))

    return Kind("llama", llama.build(), llama.gpu_offload(), load, llama.dry_run)


def _echo() -> Kind:
    from router.engine import echo

    def load(path: str, options: EngineOptions, progress: Progress) -> Engine:
        return Engine(echo.load(path, options, progress))

    return Kind("echo", echo.build(), False, load, echo.dry_run)
