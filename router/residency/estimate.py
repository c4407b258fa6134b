"""
How long a request would wait, honestly: from loads and leases that were measured, and from who is before it.

The one rule: reads the tables and changes nothing; what was never measured gets a figure that is named here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.domain.memory import fits, left
from router.domain.models import LocalModel
from router.residency import policy
from router.residency.state import Instance, Pace, Phase, Tables

UNKNOWN_LOAD = 10.0
"""Seconds, of a model that was never loaded."""
UNKNOWN_LEASE = 5.0
"""Seconds, of a model that has not finished a request."""
EXIT = 0.5
"""Seconds from the order to stop until the memory is back."""

_NOTHING: Mapping[str, float] = {}


@dataclass(frozen=True, slots=True)
class Wait:
    """`ahead`: requests that are served before. `seconds`: until the lease."""

    ahead: int
    seconds: float


def expected_wait(
    tables: Tables,
    model: LocalModel,
    now: float,
    progress: Mapping[str, float] = _NOTHING,
    last: bool = False,
) -> Wait:
    """
    Of a request for `model` that came now; `last`: of the newest that waits for it already.

    `progress`: how much of its weights each loading instance has read, 0 to 1, by instance id.
    """
    fingerprint = model.fingerprint
    own = max(sum(1 for _ in tables.waiting_for(fingerprint)) - last, 0)
    instance = tables.serving(fingerprint)
    pace = tables.paces.get(fingerprint, Pace())
    if instance is None:
        before = _models_before(tables, fingerprint)
        ahead = sum(1 for w in tables.waiting.values() if w.fingerprint in before) + own
        return Wait(ahead, _until_loaded(tables, model, before, now) + _turns(own, 0, model, pace))
    if instance.phase is Phase.LOADING:
        rest = _rest_of_load(instance, pace, now, progress.get(instance.id, 0.0))
        return Wait(own, rest + _turns(own, 0, model, pace))
    return Wait(own, _turns(own, len(instance.leases), model, pace, tables.places(instance)))


def _turns(own: int, busy: int, model: LocalModel, pace: Pace, slots: int | None = None) -> float:
    """Until `own` others of the same model have had their turn and a slot is free."""
    slots = slots or model.engine.slots
    lease = UNKNOWN_LEASE if pace.lease is None else pace.lease
    return max(own + 1 - (slots - busy), 0) * lease / slots


def _load(pace: Pace) -> float:
    return UNKNOWN_LOAD if pace.load is None else pace.load


def _rest_of_load(instance: Instance, pace: Pace, now: float, progress: float) -> float:
    """By its progress if there is some, else by how long it took last time."""
    took = now - instance.started
    if pace.load is None and progress > 0.0:
        return took * (1.0 - progress) / progress
    return max(_load(pace) - max(took, _load(pace) * progress), 0.0)


def _models_before(tables: Tables, fingerprint: str) -> dict[str, LocalModel]:
    """Of waiters that get memory first; of all that wait for some if nobody waits for this one yet."""
    before: dict[str, LocalModel] = {}
    there = {i.fingerprint for i in tables.instances.values() if i.open}
    for waiter in tables.waiting.values():
        if waiter.fingerprint == fingerprint:
            break
        if waiter.fingerprint not in there:
            before[waiter.fingerprint] = waiter.model
    return before


def _until_loaded(tables: Tables, model: LocalModel, before: Mapping[str, LocalModel], now: float) -> float:
    """Until those before have been started, one after the other where they do not fit beside, and its load."""
    room, seconds, stay = tables.free, 0.0, 0.0
    for fingerprint, other in [*before.items(), (model.fingerprint, model)]:
        needs = (tables.need(fingerprint, placement) for placement in other.placements)
        need = next((need for need in needs if fits(need, room)), None)
        if need is not None:
            room = left(room, need)
        else:
            seconds += stay + EXIT if stay else _until_memory(tables, now)
            load, limits = _load(tables.paces.get(fingerprint, Pace())), tables.limits
            stay = load + policy.hold(load, limits)
    return seconds + _load(tables.paces.get(model.fingerprint, Pace()))


def _until_memory(tables: Tables, now: float) -> float:
    """Until the first that can go is gone."""
    going = [i for i in tables.instances.values() if i.phase is not Phase.QUARANTINED]
    return min((_gone_in(tables, i, now) for i in going if not tables.protected(i)), default=0.0)


def _gone_in(tables: Tables, instance: Instance, now: float) -> float:
    pace = tables.paces.get(instance.fingerprint, Pace())
    lease = UNKNOWN_LEASE if pace.lease is None else pace.lease
    if instance.phase is Phase.STOPPING or tables.abandoned(instance):
        return EXIT
    if instance.phase is Phase.LOADING:
        return _rest_of_load(instance, pace, now, 0.0) + tables.limits.hold + EXIT
    if instance.phase is Phase.DRAINING:
        return lease + EXIT
    if not instance.leases:
        return EXIT
    claimant = tables.waiting.get(tables.claim) if tables.claim is not None else None
    asked = now if claimant is None else claimant.since
    return (
        max(asked + tables.limits.patience, policy.held_until(instance, tables.limits), now)
        - now
        + lease
        + EXIT
    )
