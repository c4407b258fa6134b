"""Who may answer a name, and in which order: the operator's rules. Values only: constant once made."""

from __future__ import annotations

from typing import Literal

import msgspec

from router.domain.upstreams import Price

CloudMode = Literal["never", "fallback", "spill"]
"""What may leave this machine: nothing; what cannot be served here; also what would have to wait here."""

Quality = Literal["classify", "chat", "code", "agentic", "reasoning"]


class Spill(msgspec.Struct, frozen=True):
    """When to go on to the next candidate rather than wait."""

    max_wait: float = 20.0
    """Seconds that the wait for a lease may be expected to take."""
    max_price: Price | None = None
    """Upstreams that cost more are no reason to leave; None = any price."""


class Route(msgspec.Struct, frozen=True):
    """Candidates for one name, best first: names of local models and of upstreams, never aliases or routes."""

    name: str
    candidates: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    cloud: CloudMode = "never"
    spill: Spill | None = None
    """Set if and only if `cloud` is spill."""
    accuracy: Literal["high"] | None = None
    reasoning_effort: Literal["high"] | None = None
    """A request with this effort asks for `accuracy`."""
