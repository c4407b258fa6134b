"""
Where to load, whom to evict, when, and how long to pause: the taste of the house.

The one rule: arithmetic over values that are handed in; nothing here changes an instance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from router.domain.memory import Bytes, left
from router.domain.models import Limits, LocalModel, Placement
from router.residency.state import Failures, Instance, Pace, Phase, Waiter
from router.sizing.placement import HOST

LINGER = 0.05
"""Seconds that an idle model inside its hold is kept for a client who may be about to come back."""

LEAVING = (Phase.DRAINING, Phase.STOPPING)
"""Whose memory comes back without anybody else being sent away."""

LONGEST_RETRY = 120.0
SHORTEST_RETRY = 1.0


def common(models: Sequence[LocalModel]) -> LocalModel:
    """
    What models that share one process want of it together: pinned or preloaded if any says so, the longest ttl.

    Priority, params, sha256 and cloud are a request's affair and stay with each name.
    """
    sound = [model for model in models if model.problem is None] or list(models)
    asking = (
        [model for model in sound if model.pinned] or [model for model in sound if model.preload] or sound
    )
    ttls = [model.ttl for model in models if model.ttl is not None]
    return msgspec.structs.replace(
        asking[0],
        pinned=any(model.pinned for model in models),
        preload=any(model.preload for model in models),
        ttl=max(ttls) if len(ttls) == len(models) else None,
    )


def rank(at: float, priority: int, limits: Limits) -> float:
    """
    The place in the queue: the lower, the earlier.

    It never changes, so aging needs no clock: who waits longer than `aging` seconds for each point that others
    have more is before all that come from then on.
    """
    return at - priority * limits.aging


def hold(load: float, limits: Limits) -> float:
    """
    Seconds that a model stays at least after a load of `load` seconds.

    A multiple of its load time, so that loading is a bounded part of the time, but only up to `patience`: a
    load of minutes must not shut everybody else out for many more.
    """
    return max(limits.hold, min(limits.hold_factor * load, limits.patience))


def held_until(holder: Instance, limits: Limits) -> float:
    """The end of the minimum hold of an instance that is ready."""
    if holder.ready_at is None:
        return 0.0
    return holder.ready_at + hold(holder.ready_at - holder.started, limits)


def goes_at(waiter: Waiter, holder: Instance, limits: Limits) -> float:
    """
    The moment from which `holder`, which is ready, may be sent away for `waiter`.

    Idle: at once. One client that alternates between models asks for the second only after it is done with
    the first, and must not wait. But a waiter that was there while the holder worked shows that there are two
    clients; then the holder gets LINGER to be asked again, so that a swap serves more than one request, until
    its minimum hold is over.

    Busy: once the waiter's patience and the holder's minimum hold are both over. Patience alone would let two
    long queues swap after every batch (llama-swap #811), hold alone would drain a busy model for a newcomer.
    """
    held = held_until(holder, limits)
    if holder.leases:
        return max(waiter.since + limits.patience, held)
    if waiter.since >= holder.last_used:
        return holder.last_used
    return min(held, holder.last_used + LINGER)


# Where ---------------------------------------------------------------------------------------------------


def equals(way: Placement) -> tuple[object, ...]:
    """The same for placements that differ only in the one device that holds the model whole."""
    held = {device: footprint.total for device, footprint in way.footprints.items() if footprint.total}
    accelerators = [size for device, size in held.items() if device != HOST]
    if len(accelerators) == 1:
        return "whole", accelerators[0], held.get(HOST, 0)
    return tuple(sorted(held.items()))


def spread(ways: Sequence[Placement], busy: Mapping[str, int], free: Bytes) -> list[Placement]:
    """
    The placements in the order in which they are tried.

    Among devices that hold the model whole: the one with the fewest `busy` slots, then the one with the most
    `free` bytes. Placements that are no equals (splits, parts in host memory) keep their order, best first.
    """
    kinds = list(dict.fromkeys(equals(way) for way in ways))

    def price(way: Placement) -> tuple[int, int, int]:
        device = next((d for d, held in way.footprints.items() if d != HOST and held.total), HOST)
        return kinds.index(equals(way)), busy.get(device, 0), -free.get(device, 0)

    return sorted(ways, key=price)


# Unasked --------------------------------------------------------------------------------------------------

GIVES_WAY = 2.0
"""How many times as often of late a model must have been asked for as those that give way to it unasked."""


def gives_way(holder: Instance, holders: Pace, wanted: Pace, now: float, limits: Limits) -> bool:
    """
    Whether `holder` may be sent away for a model that nobody waits for.

    It is idle, its minimum hold is over, and it was asked for much less of late: two models that are asked for
    alike, in turn, would otherwise evict each other at each request.
    """
    if not holder.idle or now < held_until(holder, limits):
        return False
    return demand(wanted, now) > GIVES_WAY * demand(holders, now)


# Whom ----------------------------------------------------------------------------------------------------

HALF_LIFE = 300.0
"""Seconds in which a past request loses half of its weight as a sign of the next one."""


def demand(pace: Pace, now: float) -> float:
    """Requests of late, old ones counting less."""
    return pace.demand * math.exp2((pace.at - now) / HALF_LIFE)


def loss(pace: Pace, now: float) -> float:
    """
    What it costs to do without a model: the seconds of its reload, times how likely it is asked for again.

    Only the order of such figures means anything.
    """
    return demand(pace, now) * (pace.load or 0.0)


def oldest_first(
    instances: Iterable[Instance], losses: Mapping[str, float], missing: Bytes
) -> list[Instance]:
    """`eviction: lru`. Idle ones before busy ones, each by last use."""
    return sorted(instances, key=lambda i: (bool(i.leases), i.last_used))


def cheapest_first(
    instances: Iterable[Instance], losses: Mapping[str, float], missing: Bytes
) -> list[Instance]:
    """
    `eviction: cost`. Idle ones before busy ones, each by loss for each byte that helps; among equals by last use.

    `losses` by fingerprint; `missing` is what is to be freed.
    """

    def price(instance: Instance) -> tuple[bool, float, float]:
        helps = sum(min(instance.reserved.get(device, 0), size) for device, size in missing.items())
        return (
            bool(instance.leases),
            losses.get(instance.fingerprint, 0.0) / max(helps, 1),
            instance.last_used,
        )

    return sorted(instances, key=price)


Order = Callable[[Iterable[Instance], Mapping[str, float], Bytes], list[Instance]]
"""Who is considered first as a victim."""
ORDERS: Mapping[str, Order] = {"cost": cheapest_first, "lru": oldest_first}


def least_loss(
    options: Sequence[tuple[Placement, list[Instance]]],
    losses: Mapping[str, float],
    eviction: Literal["cost", "lru"],
) -> list[Instance]:
    """
    Of several ways to make room, each with its victims: the victims that are missed least.

    Only equals of the first placement count: one that is worse for the model spares nobody. `options` is not
    empty; among victims who are missed alike the first option wins.
    """
    best = equals(options[0][0])

    def price(victims: list[Instance]) -> tuple[int, float, float]:
        lost = sum(losses.get(i.fingerprint, 0.0) for i in victims) if eviction == "cost" else 0.0
        return (
            sum(bool(i.leases) for i in victims),
            lost,
            max((i.last_used for i in victims), default=-math.inf),
        )

    return min((victims for way, victims in options if equals(way) == best), key=price)


def cover(missing: Bytes, candidates: Sequence[Instance]) -> list[Instance] | None:
    """
    The fewest of `candidates`, from the first on, whose memory covers what is `missing` on each device.

    None when even all of them do not: then nobody is evicted in vain.
    """
    chosen: list[Instance] = []
    open_ = {device: size for device, size in missing.items() if size > 0}
    lack = dict(open_)
    for instance in candidates:
        if not lack:
            break
        if any(instance.reserved.get(device, 0) > 0 for device in lack):
            chosen.append(instance)
            lack = {d: size for d, size in left(lack, instance.reserved).items() if size > 0}
    if lack:
        return None
    surplus = {d: -size for d, size in left(open_, *(i.reserved for i in chosen)).items()}
    for instance in list(chosen):  # drop early picks that a later, larger one made unnecessary
        if all(instance.reserved.get(device, 0) <= size for device, size in surplus.items()):
            chosen.remove(instance)
            surplus = left(surplus, instance.reserved)
    return chosen


def to_shrink(
    over: Bytes, loading: Bytes, ready: Iterable[Instance], pinned: Collection[str]
) -> list[Instance]:
    """
    Who goes when an edit lowered a budget by `over` bytes too many; `pinned` holds ids.

    Pinned ones go only for what is left when all others are gone, `loading` bytes included: those are asked
    again once they are ready.
    """
    ordered = [
        i for i in oldest_first(ready, {}, over) if any(i.reserved.get(device, 0) > 0 for device in over)
    ]
    others = [i for i in ordered if i.id not in pinned]
    if (chosen := cover(over, others)) is not None:
        return chosen
    over = left(over, loading, *(i.reserved for i in others))
    last = [i for i in ordered if i.id in pinned]
    chosen = cover(over, last)
    return others + (last if chosen is None else chosen)


def after_failure(record: Failures, at: float, reason: str, limits: Limits) -> Failures:
    """
    The record after one more failure at `at`.

    The first few within the window cost nothing but themselves, so that a crash is retried at once. Then each
    further one pauses the model, twice as long each time, until it has stayed up for a whole window.
    """
    times = [t for t in record.times if t > at - limits.failure_window] + [at]
    if record.strikes == 0 and len(times) < limits.failures:
        return Failures(times, 0, record.until, reason)
    pause = min(limits.backoff * 2.0 ** min(record.strikes, 64), limits.backoff_max)
    return Failures(times[-limits.failures :], record.strikes + 1, at + pause, reason)


def retry_after(seconds: float) -> float:
    """When a refused client may try again, from an estimate of how long it would wait: within bounds."""
    return min(max(seconds, SHORTEST_RETRY), LONGEST_RETRY)
