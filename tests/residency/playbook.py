"""Drive a core by a script: `Play(core) << event >> [actions]`."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from router.domain.errors import Unavailable
from router.domain.models import FileIdentity, Footprint, Limits, LocalModel
from router.residency.core import Residency
from router.residency.events import Action, Event, ModelsDesired, RefuseLease, WakeAt

LIMITS = Limits()


def model(name: str, size: int, **options: object) -> LocalModel:
    """A model whose footprint is `size` bytes."""
    return msgspec.structs.replace(
        LocalModel(name=name, path=f"/{name}.gguf", footprint=Footprint(weights=size)), **options
    )


def changed(old: LocalModel, **options: object) -> LocalModel:
    """The same model from another file: another fingerprint."""
    file = FileIdentity(modified_ns=old.file.modified_ns + 1)
    return msgspec.structs.replace(old, file=file, **options)


def desired(
    at: float, models: Iterable[LocalModel], budget: int = 12, limits: Limits = LIMITS
) -> ModelsDesired:
    return ModelsDesired(at, {m.name: m for m in models}, budget, limits)


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
    *models: LocalModel, budget: int = 12, limits: Limits = LIMITS, core: type[Residency] = Residency
) -> Play:
    """A house that has been told of `models`; pinned and preloaded ones are expected by the caller."""
    play = Play(core(budget, limits))
    return play << desired(0, models, budget, limits)
