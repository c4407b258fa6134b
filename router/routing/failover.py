"""
What becomes of a request when a candidate could not answer it: the next one, or the end.

The one rule: pure, one table; whatever is not in it ends the request. Nothing here is asked after the first token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from router.domain import errors

REASONS: dict[type[errors.RouterError], str] = {
    errors.QueueFull: "refused",
    errors.LeaseTimeout: "deadline",
    errors.DoesNotFit: "memory",
    errors.DoesNotFitNow: "memory",
    errors.LoadFailed: "load",
    errors.WorkerCrashed: "crash",
    errors.Unsupported: "unsupported",
    errors.UpstreamUnavailable: "upstream",
    errors.OverBudget: "budget",
    errors.SpendUnknown: "budget",
}
"""Errors after which the next candidate is asked -> the word for it in logs and metrics."""


def reason(error: errors.RouterError) -> str | None:
    """Why the next candidate may be asked; None = it may not: the fault is the request's, or the house is closing."""
    return next((REASONS[kind] for kind in type(error).__mro__ if kind in REASONS), None)


def tries(error: errors.RouterError) -> int:
    """How often a candidate was asked before it ended like this (`dispatch` asks a second worker after a crash)."""
    if isinstance(error, errors.UpstreamError):
        return error.tries
    return 2 if isinstance(error, errors.WorkerCrashed) else 1


def told(found: Sequence[errors.RouterError]) -> errors.RouterError:
    """Of the errors of all candidates, the one to tell: whoever can be asked again soonest, else the last."""
    soonest = min(range(len(found)), key=lambda index: (_again(found[index]), -index))
    return found[soonest]


def _again(error: errors.RouterError) -> float:
    if isinstance(error, errors.DoesNotFit):
        return math.inf
    seconds = getattr(error, "retry_after", None)
    return seconds if isinstance(seconds, int | float) else math.inf
