"""
How long a request may wait for its model and how urgent it is: two headers.

The one rule: a client can only give up what the registry grants, a shorter wait and a lower priority, never more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from router.domain.errors import InvalidRequest
from router.domain.models import Limits, LocalModel

MAX_WAIT = "x-router-max-wait"
PRIORITY = "x-router-priority"
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_POINTS = re.compile(r"[+-]?[0-9]{1,3}")
_MOST_POINTS = 100


@dataclass(frozen=True, slots=True)
class Patience:
    """
    `wait`: the most seconds for each lease that the request needs, one for each prompt; None = as the registry has it.
    """

    wait: float | None = None
    points: int | None = None

    def priority(self, model: LocalModel) -> int | None:
        return None if self.points is None else min(self.points, model.priority)


ANY = Patience()


def patience(headers: Mapping[str, str], limits: Limits) -> Patience:
    """Raises InvalidRequest."""
    return Patience(_wait(headers.get(MAX_WAIT), limits), _points(headers.get(PRIORITY)))


def _wait(said: str | None, limits: Limits) -> float | None:
    if said is None:
        return None
    if not _SECONDS.fullmatch(said.strip()):
        raise InvalidRequest(f"The header {MAX_WAIT} is a number of seconds such as 30; not {said[:40]!r}.")
    return min(float(said), limits.max_wait)


def _points(said: str | None) -> int | None:
    if said is None:
        return None
    if not _POINTS.fullmatch(said.strip()) or abs(int(said)) > _MOST_POINTS:
        raise InvalidRequest(
            f"The header {PRIORITY} is a whole number from -{_MOST_POINTS} to {_MOST_POINTS}; not {said[:40]!r}."
        )
    return int(said)
