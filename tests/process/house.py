"""A house in this process over real worker processes: residency with the real launcher, in short patience."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from router.domain.models import EngineOptions, Footprint, Limits, LocalModel
from router.residency.core import Residency
from router.residency.manager import ResidencyManager
from router.runtime.launcher import ProcessLauncher
from router.runtime.spares import Spares
from router.telemetry import Metrics
from tests.local import local_model
from tests.process.people import ENDLESS, ask, text

SIZE = 100


@dataclass
class House:
    residency: ResidencyManager
    spares: Spares
    metrics: Metrics

    async def answer(self, model: LocalModel, prompt: str = "hello") -> str:
        async with self.residency.lease(model, 20) as lease:
            return await text(lease.worker.generate(ask(prompt)))

    async def endless(self, model: LocalModel) -> str:
        async with self.residency.lease(model, 20) as lease:
            return await text(lease.worker.generate(ask("for ever", ENDLESS)))

    def happened(self, kind: str) -> list[int]:
        """Where in the history it stands."""
        return [at for at, entry in enumerate(self.residency.history()) if entry.startswith(f"{kind}(")]


def model(name: str, script: str = "") -> LocalModel:
    """SIZE bytes of the host; the name is in the path, since equal paths share a process."""
    words = "&".join(filter(None, [f"weights={SIZE}", script]))
    engine = EngineOptions(context=100_000, slots=2)
    return local_model(name, f"echo:{name}?{words}", Footprint(weights=SIZE), engine)


@contextlib.asynccontextmanager
async def house(
    *models: LocalModel, room: int = 10, silence: float = 0.5, **limits: float
) -> AsyncIterator[House]:
    """`room`: how many models fit; `silence`: seconds after which a worker that says nothing is hung."""
    metrics = Metrics()
    async with Spares(1, backend="echo", beat=0.1) as spares:
        launcher = ProcessLauncher(
            spares,
            metrics,
            "echo",
            hang_seconds=silence,
            stall_seconds=silence,
            grace=0.5,
            beat=0.1,
            deaf_seconds=silence,
        )
        told = Limits(**limits)  # type: ignore[arg-type]
        core = Residency({"host": room * SIZE}, told)
        async with ResidencyManager(core, launcher, metrics) as residency:
            residency.reconcile({m.name: m for m in models}, {"host": room * SIZE}, told)
            yield House(residency, spares, metrics)
