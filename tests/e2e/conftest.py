from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.gateway import Gateway, running, write_registry

MiB = 2**20
Start = Callable[..., Gateway]


@pytest.fixture
def start(tmp_path: Path, demo_models: dict[str, Path]) -> Iterator[Start]:
    """Start a gateway over real models a, b, c (Q4_1, Q8_0, F16) with a budget for one of them, or as told."""
    with ExitStack() as stack:

        def _start(
            *flags: str,
            models: dict[str, dict[str, object]] | None = None,
            budget: int | str = 350 * MiB,
            **top: object,
        ) -> Gateway:
            chosen = models if models is not None else two_models(demo_models)
            path = write_registry(
                tmp_path / "registry.yaml",
                chosen,
                devices={"host": {"budget": budget}},
                defaults={"context": 1024, "slots": 2},
                **top,
            )
            return stack.enter_context(running(path, tmp_path, *flags))

        yield _start


def two_models(demo_models: dict[str, Path]) -> dict[str, dict[str, object]]:
    return {
        "a": {"path": str(demo_models["q4_1"]), "aliases": ["default"]},
        "b": {"path": str(demo_models["q8_0"])},
    }
