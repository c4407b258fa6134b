"""
Who answers a request, and in which order: the operator's rules, narrowed by the client's wishes.

The one rule: pure. What is so at the moment (who is resident, what the wait would be) comes in as an argument,
and no wish ever adds a candidate that the operator's rules do not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from router.domain.models import LocalModel
from router.domain.routes import Route, Spill
from router.domain.upstreams import Price, Upstream
from router.registry.loader import Registry
from router.routing.route import Candidate, Target, as_route, candidates


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a client says beside the name."""

    accuracy: bool = False
    """Send it to a route of high accuracy, if the operator made one for what was named."""
    effort: bool = False
    """The same, by `reasoning_effort`: only to routes that listen to it."""
    local_only: bool = False
    fallbacks: bool = True
    """False: the first candidate or nobody."""
    retention: bool = True
    """False: nobody who keeps what was said."""
    max_price: Price | None = None


@dataclass(frozen=True, slots=True)
class Now:
    """What is so at the moment of the decision."""

    wait: Callable[[LocalModel], float]
    """Seconds until a lease, as far as residency can tell."""
    resident: Callable[[Candidate], bool]
    """Whether its weights are in memory: here, or at the peer."""


@dataclass(frozen=True, slots=True)
class Skipped:
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Spilled:
    """A local model behind which others are asked that came after it, since the wait for it is too long."""

    model: LocalModel
    reason: Literal["cold", "busy"]
    """It is not in memory; or it is, and others have its slots."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Candidates in the order in which they are asked; may be empty. `private`: no byte may leave."""

    name: str
    candidates: tuple[Candidate, ...]
    skipped: tuple[Skipped, ...] = ()
    private: bool = True
    spilled: tuple[Spilled, ...] = ()

    @property
    def leaves(self) -> bool:
        return any(isinstance(candidate, Upstream) for candidate in self.candidates)


def plan(
    registry: Registry,
    target: Target,
    wishes: Wishes,
    now: Now,
    *,
    cloud: bool = True,
    may_use: Callable[[Route], bool] = lambda route: True,
) -> Plan:
    """`cloud`: whether the client's key may leave this machine. `may_use`: which routes it may be sent on to."""
    route = _accurate(registry, as_route(target), wishes, may_use)
    private = must_stay(registry, route) or wishes.local_only or not cloud
    kept, skipped = _permitted(candidates(registry, route), private, wishes)
    if not wishes.fallbacks:
        skipped += [Skipped(candidate.name, "the request allows no fallback") for candidate in kept[1:]]
        kept = kept[:1]
    ordered, passed = _spilled(_nearest(kept, now), route.spill, now)
    return Plan(route.name, tuple(ordered), tuple(skipped), private, tuple(passed))


def must_stay(registry: Registry, route: Route) -> bool:
    """`cloud: never`, of the route or of any model in it: then nothing of the request may leave."""
    local = (registry.models[name] for name in route.candidates if name in registry.models)
    return route.cloud == "never" or any(model.cloud == "never" for model in local)


def _accurate(registry: Registry, route: Route, wishes: Wishes, may_use: Callable[[Route], bool]) -> Route:
    """The first route of high accuracy that shares a candidate, and does not leave where the named one stays."""
    if route.accuracy == "high" or not (wishes.accuracy or wishes.effort):
        return route
    stays = must_stay(registry, route)
    for other in registry.routes.values():
        asked = wishes.accuracy or other.reasoning_effort == "high"
        shared = not set(other.candidates).isdisjoint(route.candidates)
        opens = stays and not must_stay(registry, other)
        if other.accuracy == "high" and asked and shared and not opens and may_use(other):
            return other
    return route


def _permitted(
    found: Iterable[Candidate], private: bool, wishes: Wishes
) -> tuple[list[Candidate], list[Skipped]]:
    kept: list[Candidate] = []
    skipped: list[Skipped] = []
    for candidate in found:
        if reason := _forbidden(candidate, private, wishes):
            skipped.append(Skipped(candidate.name, reason))
        else:
            kept.append(candidate)
    return kept, skipped


def _forbidden(candidate: Candidate, private: bool, wishes: Wishes) -> str | None:
    if not isinstance(candidate, Upstream):
        return None
    if private:
        return "the request may not leave this machine"
    if not wishes.retention and candidate.retains:
        return "the request denies data collection"
    if not _affordable(candidate, wishes.max_price):
        return "it costs more than the request allows"
    return None


def _nearest(found: list[Candidate], now: Now) -> list[Candidate]:
    """
    Peers take their place by what is in memory: behind a local model that is, before one that is not. Where both
    are, a peer that was written first stays first.

    The order among local models and the places of priced upstreams are the operator's and stay.
    """
    peers = [c for c in found if isinstance(c, Upstream) and c.peer]
    local = [c for c in found if isinstance(c, LocalModel)]
    if not peers:
        return found
    warm = [peer for peer in peers if now.resident(peer)]
    cold = [peer for peer in peers if peer not in warm]
    if not local or now.resident(local[0]):
        # Both in memory: who comes first is the operator's word, as `box/large` before `small`.
        before = found[: found.index(local[0])] if local else []
        early = [peer for peer in warm if peer in before]
        fleet: list[Candidate] = [*early, *local, *(peer for peer in warm if peer not in early), *cold]
    else:
        fleet = [*warm, *(c for c in found if c in local or c in cold)]
    waiting = iter(fleet)
    return [next(waiting) if c in fleet else c for c in found]


def _spilled(found: list[Candidate], spill: Spill | None, now: Now) -> tuple[list[Candidate], list[Spilled]]:
    """
    Local models whose wait is too long go behind whoever comes next, but not behind an upstream that is too dear.

    Also who of them is passed by somebody.
    """
    if spill is None:
        return found, []
    ordered: list[Candidate] = []
    late: list[LocalModel] = []
    passed: dict[str, LocalModel] = {}
    for candidate in found:
        if isinstance(candidate, LocalModel) and now.wait(candidate) > spill.max_wait:
            late.append(candidate)
            continue
        if isinstance(candidate, Upstream) and not _affordable(candidate, spill.max_price):
            ordered += late
            late = []
        passed |= {model.name: model for model in late}
        ordered.append(candidate)
    return ordered + late, [_why(model, now) for model in passed.values()]


def _why(model: LocalModel, now: Now) -> Spilled:
    return Spilled(model, "busy" if now.resident(model) else "cold")


def _affordable(upstream: Upstream, most: Price | None) -> bool:
    if most is None or upstream.price is None:
        return True
    return upstream.price.input <= most.input and upstream.price.output <= most.output
