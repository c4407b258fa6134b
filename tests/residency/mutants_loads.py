"""More seeded faults, as in `mutants.py`: about loads without waiters, names that share a process, and refusals."""

from __future__ import annotations

from router.domain.errors import DoesNotFit, DoesNotFitNow
from router.residency.core import Residency
from router.residency.state import Waiter
from router.residency.steps import Refusal


class NowIsNever(Residency):
    """Memory that other processes hold is taken for memory that there is not: "never retry"."""

    def _hopeless(self, waiter: Waiter, now: float) -> Refusal | None:
        refusal = super()._hopeless(waiter, now)
        if refusal is not None and refusal[0] is DoesNotFitNow:
            return DoesNotFit, refusal[1], None
        return refusal


MUTANTS: tuple[type[Residency], ...] = (NowIsNever,)
