"""
What operators order: loads that nobody else asked for, and unloads.

The one rule: an order that failed is remembered until the model is there or leaves the registry, since nobody
waits for its answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping

from router.domain.errors import DoesNotFit, DoesNotFitNow, ModelBusy, Unavailable
from router.domain.models import LocalModel
from router.residency import events
from router.residency.state import Phase, Tables


class Orders:
    """
    `lease` waits for one slot of a model as an operator; `post` hands an event to the core; `stir` is called when
    a status may have changed.
    """

    def __init__(
        self,
        tables: Tables,
        clock: Callable[[], float],
        post: Callable[[events.Event], None],
        lease: Callable[[LocalModel], contextlib.AbstractAsyncContextManager[object]],
        stir: Callable[[], None],
    ) -> None:
        self._tables = tables
        self._clock = clock
        self._post = post
        self._lease = lease
        self._stir = stir
        self._refused: dict[str, str] = {}
        """Fingerprint -> why the last load that was ordered failed."""

    async def load(self, model: LocalModel) -> None:
        """Returns when the model is ready. Raises the kinds of Unavailable."""
        fingerprint = model.fingerprint
        instance = self._tables.serving(fingerprint)
        if instance is not None and instance.phase is Phase.READY:
            return
        self._refused.pop(fingerprint, None)
        try:
            async with self._lease(model):
                pass
        except Unavailable as error:
            too_large = isinstance(error, DoesNotFit | DoesNotFitNow)
            if too_large or fingerprint in self._tables.failures:
                self._refused[fingerprint] = error.message
                self._stir()
            raise

    def unload(self, name: str | None, force: bool = False) -> int:
        """
        None = all. Busy ones finish first. Returns how many were told to go.

        Raises ModelBusy when clients wait for the one that is named; `force` refuses them. Of all, those that are
        waited for stay without it.
        """
        before = self._here(name)
        waiting = [
            w for w in self._tables.waiting.values() if w.fingerprint in before and w.reason == "request"
        ]
        self._post(events.UnloadRequested(self._clock(), name, force))
        if name is not None and waiting and not force:
            raise ModelBusy(name, len(waiting))
        return len(before - self._here(name, leaving=False))

    def _here(self, name: str | None, leaving: bool = True) -> set[str]:
        """The versions that are in memory or waited for; `leaving`: also those that drain for an operator."""
        tables = self._tables
        here = {
            i.fingerprint
            for i in tables.instances.values()
            if i.phase not in (Phase.STOPPING, Phase.QUARANTINED) and (leaving or i.leaving != "requested")
        }
        awaited = {w.fingerprint for w in tables.waiting.values()}
        return (here | awaited) & tables.versions_of(name)

    def came_up(self, fingerprint: str) -> None:
        """The model is in memory: an order that failed before is history."""
        self._refused.pop(fingerprint, None)

    def keep(self, known: Collection[str]) -> None:
        """Forget what was refused of versions that are not in the registry any more."""
        self._refused = {f: why for f, why in self._refused.items() if f in known}

    def refused(self, fingerprints: Mapping[str, str]) -> dict[str, str]:
        """Name -> why its last ordered load failed. `fingerprints` by name."""
        return {name: self._refused[f] for name, f in fingerprints.items() if f in self._refused}
