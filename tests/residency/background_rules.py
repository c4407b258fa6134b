"""
House rules of the referee: which of several devices a model goes to, and what a load costs that nobody waits for.

The one rule: as in `house_rules`, judged from the referee's own books.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.domain.memory import fits, left
from router.domain.models import LocalModel, Placement
from router.residency.policy import hold

if TYPE_CHECKING:
    from tests.residency.house_rules import Process, Referee


def check_spread(referee: Referee, model: LocalModel, chosen: Placement) -> None:
    """Of devices that would hold it whole, none with fewer busy slots, or as many and more free bytes, is left idle."""
    there_now = {p.model.fingerprint for p in referee.processes.values()}
    if any(m.pinned and m.fingerprint not in there_now for m in referee.desired.values()):
        return  # room is kept for it
    tables = referee.core.tables
    # What it starts behind the action that is looked at is in its books already.
    known = (i.reserved for name, i in tables.instances.items() if name in referee.processes)
    room = left(referee.in_force, referee.dry_runs, *known)
    for other in tables.ways(model, model.fingerprint):
        here, there = _whole_on(chosen), _whole_on(other)
        if here is None or there is None or here[1] != there[1] or not fits(referee.need(model, other), room):
            continue
        before = (_busy(referee, here[0]), -room[here[0]])
        assert before <= (_busy(referee, there[0]), -room[there[0]]), f"{model.name} is piled upon {here[0]}"


def _whole_on(placement: Placement) -> tuple[str, int] | None:
    """The one device that holds it, and how much of it; None for one in parts."""
    held = [(device, size) for device, size in placement.bytes.items() if size > 0]
    return held[0] if len(held) == 1 else None


def _busy(referee: Referee, device: str) -> int:
    return sum(_users(referee, p) for p in referee.processes.values() if device in p.devices)


def _users(referee: Referee, process: Process) -> int:
    """Its leases; while it loads, who will have one."""
    if process.up or process.dying:
        return len(process.leases)
    same = sum(w.model.fingerprint == process.model.fingerprint for w in referee.waiting.values())
    return min(same, process.model.engine.slots)


def check_load(referee: Referee, model: LocalModel) -> None:
    """A load in the background: asked for, alone, and before nobody."""
    assert model.fingerprint in referee.spilled, f"{model.name} is loaded though no request went past it"
    referee.spilled.discard(model.fingerprint)
    assert not referee.absent(), "a load in the background while somebody waits for memory"
    others = [p for p in referee.processes.values() if p.reason == "spill" and not p.up and not p.dying]
    assert not others, "two loads in the background at once"


def check_eviction(referee: Referee, now: float, name: str) -> None:
    """Nobody waits: its minimum hold is over."""
    process = referee.processes[name]
    over = process.since + hold(process.load, referee.limits)
    assert now >= over - 1e-6, f"{name} was evicted within its hold, and nobody waits"
