"""
What a replay comes to: one set of figures a policy.

The one rule: values in, values out; the same replay gives the same figures.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from router.simulate.world import Replay, Visit


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds. Of nothing: zeros."""

    p50: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Figures:
    """Waits are those of requests that were served: from arrival to the lease."""

    policy: str
    requests: int
    answered: int
    wait: Spread
    first_token: Spread
    """From arrival to the first token."""
    service: Spread
    """From the lease to the end of the answer."""
    swaps: int
    """Loads that ended well."""
    evictions: Mapping[str, int]
    """By reason."""
    refused: Mapping[str, int]
    """By error."""
    goodput: float
    """Answers a second whose first token came within the objective, over the time in which requests came."""
    busy: Mapping[str, float]
    """Share of the time in which each device worked on prompts or answers."""
    loading: float
    """Seconds of loading by seconds of time; above 1 when loads overlap."""
    most_bytes: Mapping[str, int]
    """Of each device at once."""
    end: float
    """Second at which the last answer was complete."""
    by_model: Mapping[str, ModelFigures]

    def facts(self) -> dict[str, Any]:
        """For JSON; seconds to the microsecond."""
        found: dict[str, Any] = _rounded(asdict(self))
        return found


@dataclass(frozen=True, slots=True)
class ModelFigures:
    requests: int
    answered: int
    wait: Spread


def figures(policy: str, replay: Replay, objective: float) -> Figures:
    """`objective`: seconds to the first token within which an answer is a good one."""
    visits, end = replay.visits, max(replay.end, 1e-9)
    answered = [v for v in visits if v.done is not None]
    firsts = [v.first - v.request.at for v in answered if v.first is not None]
    span = max(visits[-1].request.at if visits else 0.0, 1.0)
    return Figures(
        policy=policy,
        requests=len(visits),
        answered=len(answered),
        wait=spread(_waits(visits)),
        first_token=spread(firsts),
        service=spread(
            [v.done - v.granted for v in answered if v.done is not None and v.granted is not None]
        ),
        swaps=replay.swaps,
        evictions=dict(sorted(replay.evictions.items())),
        refused=dict(sorted(Counter(v.refused for v in visits if v.refused).items())),
        goodput=sum(1 for seconds in firsts if seconds <= objective) / span,
        busy={name: seconds / end for name, seconds in sorted(replay.busy_seconds.items())},
        loading=replay.load_seconds / end,
        most_bytes=replay.most_bytes,
        end=replay.end,
        by_model=_by_model(visits),
    )


def spread(values: Sequence[float]) -> Spread:
    ordered = sorted(values) or [0.0]
    return Spread(*(_percentile(ordered, share) for share in (0.5, 0.95, 0.99, 1.0)))


def _percentile(ordered: Sequence[float], share: float) -> float:
    """The least value that `share` of all do not exceed."""
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def _waits(visits: Sequence[Visit]) -> list[float]:
    return [v.granted - v.request.at for v in visits if v.granted is not None]


def _by_model(visits: Sequence[Visit]) -> dict[str, ModelFigures]:
    groups: dict[str, list[Visit]] = {}
    for visit in visits:
        groups.setdefault(visit.model.name, []).append(visit)
    return {
        name: ModelFigures(len(group), sum(v.done is not None for v in group), spread(_waits(group)))
        for name, group in sorted(groups.items())
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    return value
