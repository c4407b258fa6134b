"""
The formula's placements replaced by llama.cpp's own: each candidate of the plan is dry-run, once, and kept.

The one rule: where no dry run can be had the formula stands; only a refusal by the engine itself breaks a model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from router.domain.errors import ModelRefused
from router.domain.models import EngineOptions, Footprint, LocalModel, Placement
from router.registry import files
from router.registry.loader import Registry
from router.registry.scalars import shown
from router.sizing import estimate, placement
from router.sizing.gguf import Header
from router.sizing.ledger import Ledger, Sizes
from router.telemetry import logger

log = logger("registry")


class DryRunner(Protocol):
    """Asks the engine what it would allocate; a process hides behind it."""

    async def build(self) -> str: ...
    async def dry_run(self, path: str, options: EngineOptions) -> tuple[dict[str, Footprint] | None, str]:
        """None and the reason when the dry run could not be had. Raises ModelRefused."""
        ...


class Refiner:
    """One for the life of the gateway."""

    def __init__(self, runner: DryRunner, ledger: Ledger) -> None:
        self._runner = runner
        self._ledger = ledger

    async def refine(self, registry: Registry) -> Registry:
        """The registry with exact placements, and with `problem` set on each model that the engine refuses."""
        models = {name: await self._refined(model, registry) for name, model in registry.models.items()}
        refused = [
            registry.say(name, model.problem)
            for name, model in models.items()
            if model.problem is not None and registry.models[name].problem is None
        ]
        return registry.with_models(models, refused)

    async def _refined(self, model: LocalModel, registry: Registry) -> LocalModel:
        header = files.look(Path(model.path)).header
        if model.problem is not None or header is None:
            return model
        build = await self._runner.build()
        try:
            ways, exact = await self._planned(build, model, registry, header)
        except ModelRefused as refusal:
            return msgspec.structs.replace(model, problem=_one_line(refusal.message))
        known = tuple(self._with_measured(build, model, way, exact) for way in ways)
        return msgspec.structs.replace(model, placements=known)

    async def _planned(
        self, build: str, model: LocalModel, registry: Registry, header: Header
    ) -> tuple[tuple[Placement, ...], bool]:
        """The ways to hold the model, and whether all of them rest on dry runs. Raises ModelRefused."""
        decisions = placement.plan(model.engine, model.card.layers, registry.budgets, registry.linked)
        exact = True
        try:
            candidate = next(decisions)
            while True:
                sizes = await self._sizes(build, model, candidate)
                exact = exact and sizes is not None
                candidate = decisions.send(sizes or estimate.footprints(header, candidate))
        except StopIteration as done:
            return done.value, exact

    def _with_measured(self, build: str, model: LocalModel, way: Placement, exact: bool) -> Placement:
        measured = self._ledger.measured(build, model, way.engine)
        return msgspec.structs.replace(way, measured=dict(measured or {}), exact=exact or bool(measured))

    async def _sizes(self, build: str, model: LocalModel, engine: EngineOptions) -> Sizes | None:
        """By a dry run, this one or an earlier; None when none can be had. Raises ModelRefused."""
        planned = self._ledger.planned(build, model, engine)
        if planned is None:
            planned = await self._dry_run(build, model, engine)
        if planned is None:
            return None
        return {device: self._with_overhead(build, device, held) for device, held in planned.items()}

    async def _dry_run(self, build: str, model: LocalModel, engine: EngineOptions) -> Sizes | None:
        if (reason := self._ledger.refused(build, model, engine)) is not None:
            raise ModelRefused(reason)
        try:
            planned, message = await self._runner.dry_run(model.path, engine)
        except ModelRefused as refusal:
            self._ledger.refuse(build, model, engine, _one_line(refusal.message))
            raise
        if planned is None:
            log.warning("no dry run; the formula stands", model=model.name, reason=message)
            return None
        self._ledger.plan(build, model, engine, planned)
        return planned

    def _with_overhead(self, build: str, device: str, held: Footprint) -> Footprint:
        """A dry run knows what the process takes of the host; of a GPU, only a measurement does."""
        if device == placement.HOST or held.overhead:
            return held
        known = self._ledger.overhead(build, device)
        overhead = estimate.CUDA_PROCESS if known is None else known
        return msgspec.structs.replace(held, overhead=overhead)


def _one_line(reason: str) -> str:
    """Names of tensors and keys come out of a stranger's file."""
    return shown(reason, 1000)
