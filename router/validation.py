"""
A registry judged without serving it: by the code path of a start, so that `check` and `serve` cannot disagree.

The one rule: it ends in bounded time, and what could not be found out is called so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from router.domain.errors import LoadFailed
from router.domain.memory import lacking
from router.domain.models import EngineOptions, Footprint, LocalModel
from router.registry import files, loader
from router.registry.catalog import Catalog
from router.registry.loader import Registry
from router.registry.refine import Refiner
from router.runtime.launcher import ProcessLauncher, usable
from router.runtime.spares import Spares
from router.sizing import devices
from router.sizing.devices import Device
from router.sizing.ledger import Ledger
from router.telemetry import Metrics

DRY_RUN_SECONDS = 300.0
"""For the dry runs of all models together."""
QUIET_SECONDS = 2.0
"""A dry run that takes longer is told of."""

GOOD, WRONG, FILES_MISSING = 0, 2, 3
"""Exit statuses of `router check`."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a start would make of a registry here."""

    registry: Registry
    unsure: tuple[str, ...] = ()
    """Models whose bytes are known by the formula only: at most so much, which is over the budget."""
    missing: tuple[str, ...] = ()
    """Models whose file is not there."""
    not_asked: str | None = None
    """Why the engine could not be asked about some of the models; None when it was."""

    @property
    def status(self) -> int:
        """The exit status."""
        broken = {name for name, model in self.registry.models.items() if model.problem is not None}
        broken -= set(self.unsure)
        if broken - set(self.missing):
            return WRONG
        return FILES_MISSING if broken else GOOD


def judge(path: Path, cache: Path, say: Say = lambda line: None, seconds: float = DRY_RUN_SECONDS) -> Verdict:
    """
    Read the registry and its models' files, ask the engine what is not in the cache yet, and judge.

    `say` is told of what takes long; `seconds` bounds all dry runs together. Raises RegistryInvalid.
    """
    return asyncio.run(_judge(path, cache, say, seconds))


async def _judge(path: Path, cache: Path, say: Say, seconds: float) -> Verdict:
    async with Spares(0) as spares:
        launcher, there = ProcessLauncher(spares, Metrics()), devices.detect()
        launcher.dry_runs.see({device.name: device.uuid for device in there if device.uuid})
        asked = _Asked(launcher, say, seconds)
        found = await asked.usable(there)
        refiner = Refiner(asked, Ledger(cache / "footprints.json"))
        refined: list[Registry] = []

        async def refine(registry: Registry) -> Registry:
            refined.append(await refiner.refine(registry))
            return refined[-1]

        catalog = Catalog(path, lambda path: loader.load(path, found, cache), refine, lambda registry: None)
        judged = await catalog.start()
    return Verdict(
        judged,
        tuple(n for n, m in judged.models.items() if _unsure(refined[-1].models[n], m, judged)),
        tuple(n for n, m in judged.models.items() if m.problem is not None and files.missing(Path(m.path))),
        asked.lacks,
    )


def _unsure(refined: LocalModel, judged: LocalModel, registry: Registry) -> bool:
    """Too large by the formula, which says at most so much; its weights alone would fit."""
    if judged.problem is None or refined.problem is not None:
        return False
    if any(way.exact for way in judged.placements):
        return False
    least = [{d: held.weights for d, held in way.footprints.items()} for way in judged.placements]
    return any(not lacking(weights, registry.budgets) for weights in least)


class _Asked:
    """The engine's dry runs, within one time for all of them; an engine that does not start is asked nothing."""

    def __init__(self, launcher: ProcessLauncher, say: Say, seconds: float) -> None:
        self._launcher = launcher
        self._say = say
        self._until = asyncio.get_running_loop().time() + seconds
        self._starts = True
        self.lacks: str | None = None
        """Why it could not be asked about some model."""

    async def usable(self, found: tuple[Device, ...]) -> tuple[Device, ...]:
        """As `serve` has it: a GPU that the engine was not built for is none."""
        try:
            return await usable(self._launcher, found)
        except LoadFailed as error:
            self._starts, self.lacks = False, error.message
            return found

    async def build(self) -> str:
        """Of the engine; "" where it does not start, and then nothing is known of it."""
        try:
            return await self._launcher.build() if self._starts else ""
        except LoadFailed as error:
            self._starts, self.lacks = False, error.message
            return ""

    async def dry_run(self, path: str, options: EngineOptions) -> tuple[dict[str, Footprint] | None, str]:
        """As the launcher's, as long as there is time. Raises ModelRefused."""
        if not self._starts:
            return None, self.lacks or ""
        told = asyncio.get_running_loop().call_later(
            QUIET_SECONDS, self._say, f"asking llama.cpp what {path} takes ..."
        )
        try:
            async with asyncio.timeout_at(self._until):
                planned, reason = await self._launcher.dry_run(path, options)
        except TimeoutError:
            planned, reason = None, "the time for dry runs is over"
        finally:
            told.cancel()
        if planned is None:
            self.lacks = self.lacks or reason
        return planned, reason
