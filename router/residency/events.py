"""
What can happen to residency (events), and what it asks to be done (actions).

The one rule: values only. An event carries its own time, in seconds of a clock that never goes back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.domain.errors import Unavailable
from router.domain.memory import Bytes
from router.domain.models import Limits, LocalModel, Placement
from router.residency.state import StartReason, StopReason

# Events ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LeaseRequested:
    at: float
    ticket: int
    model: LocalModel
    deadline: float | None = None
    """When to give up waiting; None = after the registry's `max_wait`."""
    reason: StartReason = "request"
    priority: int | None = None
    """None = the model's."""


@dataclass(frozen=True, slots=True)
class LeaseReleased:
    """The holder is done, or gave up waiting. Safe to send twice, and for a ticket that was refused."""

    at: float
    ticket: int


@dataclass(frozen=True, slots=True)
class RequestSpilled:
    """Another candidate is asked, since the wait for `model` here would be, or was, too long."""

    at: float
    model: LocalModel
    waited: bool = False
    """It waited here first, and was counted as a request then."""


@dataclass(frozen=True, slots=True)
class WorkerReady:
    at: float
    instance: str
    slots: int
    resident: Bytes
    """Measured."""


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """The process serves no more (its socket is closed), but it is not reaped: its memory is still held."""

    at: float
    instance: str
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerFreed:
    """
    A worker that stops has given back its model, and the device confirms.

    What remains (the process's own overhead) is held until WorkerExited.
    """

    at: float
    instance: str
    remaining: Bytes


@dataclass(frozen=True, slots=True)
class WorkerStuck:
    """The process was killed and is still not reaped. It may exit yet; nobody counts on it."""

    at: float
    instance: str


@dataclass(frozen=True, slots=True)
class WorkerExited:
    """The process is gone and the kernel has its memory back; also the end of a load that failed."""

    at: float
    instance: str
    reason: str = ""
    out_of_memory: bool = False
    """Why the load failed."""


@dataclass(frozen=True, slots=True)
class DeviceFree:
    """What other processes leave of each device. Devices that are not named have no strangers."""

    at: float
    free_beside: Bytes


@dataclass(frozen=True, slots=True)
class DryRunsHold:
    """
    What dry-run processes hold of each device: for seconds, so that loads wait for it and nobody is evicted or refused.
    """

    at: float
    held: Bytes


@dataclass(frozen=True, slots=True)
class DevicePaced:
    """How much of their slots models on a hot device may use, 0 to 1. Devices that are not named: all of them."""

    at: float
    shares: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ModelsDesired:
    """The whole registry, not a diff: residency is told levels, not edges."""

    at: float
    models: Mapping[str, LocalModel]
    budgets: Bytes
    limits: Limits


@dataclass(frozen=True, slots=True)
class UnloadRequested:
    """
    An operator sends a model away, or all of them (`name` None).

    What clients wait for is left alone, unless `force`: then they are refused.
    """

    at: float
    name: str | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class ShutdownRequested:
    at: float


@dataclass(frozen=True, slots=True)
class TimePassed:
    at: float


Event = (
    LeaseRequested
    | LeaseReleased
    | RequestSpilled
    | WorkerReady
    | WorkerLost
    | WorkerFreed
    | WorkerStuck
    | WorkerExited
    | DeviceFree
    | DryRunsHold
    | DevicePaced
    | ModelsDesired
    | UnloadRequested
    | ShutdownRequested
    | TimePassed
)

# Actions --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartWorker:
    instance: str
    model: LocalModel
    placement: Placement
    reason: StartReason


@dataclass(frozen=True, slots=True)
class StopWorker:
    instance: str
    reason: StopReason


@dataclass(frozen=True, slots=True)
class GrantLease:
    ticket: int
    instance: str


@dataclass(frozen=True, slots=True)
class RefuseLease:
    """The ticket has no further outcome. A lease that was granted is refused when its worker dies."""

    ticket: int
    error: type[Unavailable]
    reason: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send TimePassed then. A later one replaces it."""

    at: float


Action = StartWorker | StopWorker | GrantLease | RefuseLease | WakeAt
