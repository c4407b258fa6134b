"""A gateway in a process of its own, to be killed: one spare, one loaded worker; prints their process ids."""

from __future__ import annotations

import asyncio
import sys

from router.runtime.launcher import ProcessLauncher
from router.runtime.spares import Spares
from router.telemetry import Metrics, configure_logging
from tests.local import launch, local_model, quiet
from tests.process.people import ENDLESS, ask


async def main(script: str) -> None:
    configure_logging()
    async with Spares(1, backend="echo") as spares:
        launcher = ProcessLauncher(spares, Metrics(), "echo")
        async with launch(launcher, "m#1", local_model("m", script), quiet) as worker:
            while not spares.idle:  # the spare behind the worker comes by itself
                await asyncio.sleep(0.01)
            print(worker.pid, *spares.idle, flush=True)
            async for _ in worker.generate(ask("for ever", ENDLESS)):
                pass


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
