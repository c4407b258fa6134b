"""
Which process a dry run is asked of: one that sees only the GPUs that it is about.

The one rule: while such a process lives, what it holds of its GPUs is told; no other GPU is touched.

llama.cpp opens a CUDA context, some 500 MiB, on a card that it only looks at. A model that is loaded names its
devices, but a dry run allocates nothing, and what it asks the driver is asked of whichever card comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from router.domain.memory import Bytes, plus
from router.domain.models import EngineOptions, Footprint
from router.runtime.probe import Probe
from router.runtime.spares import Spares
from router.sizing.estimate import CUDA_PROCESS
from router.sizing.placement import HOST

DEVICE_IDLE_SECONDS = 1.0
"""How long a process that holds device memory stays for the next question: loads may wait for that memory."""
Cards = tuple[str, ...]


class Probes:
    """A `Probe` for each set of GPUs that is asked about, and one for everything else."""

    def __init__(self, spares: Spares, idle_seconds: float = DEVICE_IDLE_SECONDS) -> None:
        self._spares = spares
        self._idle_seconds = idle_seconds
        self._uuids: Mapping[str, str] = {}
        self._tell: Callable[[Bytes], None] = lambda held: None
        self._general = Probe(spares)
        self._by_cards: dict[Cards, Probe] = {}

    def see(self, uuids: Mapping[str, str]) -> None:
        """The GPUs: our names, in CUDA's order, with the driver's. Before this no question hides any."""
        self._uuids = dict(uuids)

    def report_to(self, tell: Callable[[Bytes], None]) -> None:
        """`tell` hears what the processes hold of each GPU: now, and whenever it changes."""
        self._tell = tell
        tell(self.held)

    @property
    def held(self) -> dict[str, int]:
        """Bytes by device, as estimated: what a CUDA context costs."""
        counts = ((cards, probe.processes) for cards, probe in self._by_cards.items())
        return plus(*(dict.fromkeys(cards, count * CUDA_PROCESS) for cards, count in counts if count))

    async def build(self) -> str:
        """The engine's build, as a worker of this installation says it. Raises LoadFailed."""
        return await self._general.build()

    async def offloads(self) -> bool:
        """Whether that build can use a GPU. Raises LoadFailed."""
        return await self._general.offloads()

    async def dry_run(self, path: str, options: EngineOptions) -> tuple[dict[str, Footprint] | None, str]:
        """As `Probe.dry_run`."""
        cards = self._asked(options)
        if not cards:
            return await self._general.dry_run(path, options)
        # A process numbers what it sees: the only card of one that may see gpu1 is its gpu0.
        inside = {card: f"gpu{number}" for number, card in enumerate(cards)}
        outside = {there: card for card, there in inside.items()}
        devices = tuple(inside.get(device, device) for device in options.devices)
        within = msgspec.structs.replace(options, devices=devices)
        footprints, message = await self._probe(cards).dry_run(path, within)
        if footprints is None:
            return None, message
        return {outside.get(device, device): held for device, held in footprints.items()}, message

    def _asked(self, options: EngineOptions) -> Cards:
        """The GPUs that the question is about; none where it is about no particular ones, or about unknown ones."""
        known = all(device in self._uuids for device in options.devices if device != HOST)
        return tuple(card for card in self._uuids if card in options.devices) if known else ()

    def _probe(self, cards: Cards) -> Probe:
        if cards not in self._by_cards:
            visible = ",".join(self._uuids[card] for card in cards)
            self._by_cards[cards] = Probe(
                self._spares,
                self._idle_seconds,
                environment={"CUDA_VISIBLE_DEVICES": visible},
                changed=lambda: self._tell(self.held),
            )
        return self._by_cards[cards]
