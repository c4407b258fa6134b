"""Drive a core by a script: `Play(core) << event >> [actions]`."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from router.domain.errors import Unavailable
from router.domain.memory import Bytes
from router.domain.models import EngineOptions, FileIdentity, Footprint, Limits, LocalModel, Placement
from router.residency.core import Residency
from router.residency.events import (
    Action,
    Event,
    ModelsDesired,
    RefuseLease,
    StartWorker,
    WakeAt,
    WorkerReady,
)
from router.residency.state import StartReason
from tests.local import local_model

LIMITS = Limits()


DEVICE = "gpu0"
"""Of the stories with one device; there, bytes are plain numbers."""


def on(size: int | Bytes) -> Bytes:
    """Bytes by device; a number is bytes of the one device."""
    return {DEVICE: size} if isinstance(size, int) else size


def model(name: str, size: int, **options: object) -> LocalModel:
    """A model of `size` bytes on the one device."""
    return local_model(name, footprint=Footprint(weights=size), device=DEVICE, **options)


def placed(name: str, *ways: Bytes) -> LocalModel:
    """A model that can be held in each of these ways, best first."""
    placements = (
        Placement(EngineOptions(gpu_layers=n), {d: Footprint(weights=size) for d, size in way.items()})
        for n, way in enumerate(ways)
    )
    return msgspec.structs.replace(model(name, 0), placements=tuple(placements))


def ready(at: float, instance: str, slots: int, resident: int | Bytes) -> WorkerReady:
    return WorkerReady(at, instance, slots, on(resident))


def start(instance: str, model: LocalModel, reason: StartReason) -> StartWorker:
    """It is started where it likes best."""
    return StartWorker(instance, model, model.placements[0], reason)


def changed(old: LocalModel, **options: object) -> LocalModel:
    """The same model from another file: another fingerprint."""
    file = FileIdentity(modified_ns=old.file.modified_ns + 1)
    return msgspec.structs.replace(old, file=file, **options)


def desired(
    at: float, models: Iterable[LocalModel], budget: int | Bytes = 12, limits: Limits = LIMITS
) -> ModelsDesired:
    return ModelsDesired(at, {m.name: m for m in models}, on(budget), limits)


class Refused:
    """Equal to any refusal of this ticket with this error."""

    def __init__(self, ticket: int, error: type[Unavailable], retry_after: float | None = -1.0) -> None:
        self.ticket = ticket
        self.error = error
        self.retry_after = retry_after

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, RefuseLease)
            and (other.ticket, other.error) == (self.ticket, self.error)
            and self.retry_after in (-1.0, other.retry_after)
            and other.reason != ""
        )

    def __repr__(self) -> str:
        return f"Refused({self.ticket}, {self.error.__name__}, {self.retry_after})"

    __hash__ = None  # type: ignore[assignment]


class Play:
    """Every action of every event has to be expected, but for WakeAt, whose time is kept in `wake`."""

    def __init__(self, core: Residency) -> None:
        self.core = core
        self.wake: float | None = None
        self._last: list[Action] = []

    def __lshift__(self, event: Event) -> Play:
        assert not self._last, f"unasserted actions: {self._last}"
        actions = self.core.handle(event)
        self.wake = next((a.at for a in actions if isinstance(a, WakeAt)), None)
        self._last = [a for a in actions if not isinstance(a, WakeAt)]
        return self

    def __rshift__(self, expected: list[Action | Refused]) -> Play:
        assert self._last == expected
        self._last = []
        return self


def house(
    *models: LocalModel, budget: int | Bytes = 12, limits: Limits = LIMITS, core: type[Residency] = Residency
) -> Play:
    """A house that has been told of `models`; pinned and preloaded ones are expected by the caller."""
    play = Play(core(on(budget), limits))
    return play << desired(0, models, budget, limits)
