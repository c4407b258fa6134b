"""
The formula's placements replaced by llama.cpp's own: each candidate of the plan is dry-run, once, and kept.

The one rule: where no dry run can be had the formula stands; nothing here makes a registry worse.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from router.domain.models import EngineOptions, Footprint, LocalModel, Placement
from router.registry import files
from router.registry.loader import Registry
from router.sizing import estimate, placement
from router.sizing.gguf import Header
from router.sizing.ledger import Ledger, Sizes
from router.telemetry import logger

log = logger("registry")


class DryRunner(Protocol):
    """Asks the engine what it would allocate; a process hides behind it."""

    async def build(self) -> str: ...
    async def dry_run(self, path: str, options: EngineOptions) -> tuple[dict[str, Footprint] | None, str]: ...


class Refiner:
    """One for the life of the gateway."""

    def __init__(self, runner: DryRunner, ledger: Ledger) -> None:
        self._runner = runner
        self._ledger = ledger

    async def refine(self, registry: Registry) -> Registry:
        """The registry with exact placements."""
        return registry.with_models(
            {name: await self._refined(model, registry) for name, model in registry.models.items()}
        )

    async def _refined(self, model: LocalModel, registry: Registry) -> LocalModel:
        header = files.look(Path(model.path)).header
        if model.problem is not None or header is None:
            return model
        build = await self._runner.build()
        decisions = placement.plan(model.engine, model.card.layers, registry.budgets, registry.linked)
        try:
            candidate = next(decisions)
            while True:
                candidate = decisions.send(await self._sizes(build, model, candidate, header))
        except StopIteration as done:
            ways: tuple[Placement, ...] = done.value
            known = tuple(self._with_measured(build, model, way) for way in ways)
            return msgspec.structs.replace(model, placements=known)

    def _with_measured(self, build: str, model: LocalModel, way: Placement) -> Placement:
        measured = self._ledger.measured(build, model, way.engine)
        return msgspec.structs.replace(way, measured=dict(measured)) if measured else way

    async def _sizes(self, build: str, model: LocalModel, engine: EngineOptions, header: Header) -> Sizes:
        planned = self._ledger.planned(build, model, engine)
        if planned is None:
            planned, message = await self._runner.dry_run(model.path, engine)
            if planned is None:
                log.warning("no dry run; the formula stands", model=model.name, reason=message)
                return estimate.footprints(header, engine)
            self._ledger.plan(build, model, engine, planned)
        return {device: self._with_overhead(build, device, held) for device, held in planned.items()}

    def _with_overhead(self, build: str, device: str, held: Footprint) -> Footprint:
        """A dry run knows what the process takes of the host; of a GPU, only a measurement does."""
        if device == placement.HOST or held.overhead:
            return held
        known = self._ledger.overhead(build, device)
        overhead = estimate.CUDA_PROCESS if known is None else known
        return msgspec.structs.replace(held, overhead=overhead)
