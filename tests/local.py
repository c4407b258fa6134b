"""Local models for tests: the one place that knows what a placement looks like."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import msgspec

from router.domain.models import EngineOptions, Footprint, LocalModel, Placement
from router.domain.news import News, Progress
from router.residency.manager import Launcher

NOTHING = Footprint()


def local_model(
    name: str = "m",
    path: str | None = None,
    footprint: Footprint = NOTHING,
    engine: EngineOptions | None = None,
    device: str = "host",
    **options: Any,
) -> LocalModel:
    """A model that can be held in one way only, whole on `device`."""
    engine = engine or EngineOptions()
    placement = Placement(engine, {device: footprint})
    return LocalModel(name, path or f"/{name}.gguf", (placement,), engine, **options)


def resized(model: LocalModel, footprint: Footprint) -> LocalModel:
    """The same model with another estimate on the one device of its one placement."""
    (placement,) = model.placements
    (device,) = placement.footprints
    return msgspec.structs.replace(model, placements=(Placement(placement.engine, {device: footprint}),))


def launch(
    launcher: Launcher, instance: str, model: LocalModel, tell: Callable[[News], None]
) -> contextlib.AbstractAsyncContextManager[Any]:
    """Launch it placed as it likes best."""
    return launcher.launch(instance, model, model.placements[0], tell)


def quiet(news: News) -> None:
    """Nobody listens."""


def heard(fractions: list[float]) -> Callable[[News], None]:
    """Keeps the progress of a load."""

    def tell(news: News) -> None:
        if isinstance(news, Progress):
            fractions.append(news.fraction)

    return tell
