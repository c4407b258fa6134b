"""
How fast the machine is that a trace is replayed on.

The one rule: arithmetic only; who does what when is the world's.
"""

from __future__ import annotations

from dataclasses import dataclass

from router.domain.models import LocalModel

GiB = 2**30

REFERENCE = 4 * GiB
"""Weights of the model that the rates are stated for, an 8b of 4 bits: others are slower in proportion."""
FASTEST = 4.0
"""So many times the stated rate at most: below, a step costs its launch, not its bytes."""


@dataclass(frozen=True, slots=True)
class Machine:
    """
    The defaults were measured with llama.cpp on one H100 (PCIe 5): an 8b of 4.16 GiB out of the page cache in
    0.7 s, its prefill of 4096 tokens in 0.42 s, its decode 251, 807 and 1545 tokens/s at 1, 8 and 32 streams.
    """

    read: float = 6.4 * GiB
    """Bytes a second from the file to the device."""
    load_overhead: float = 0.05
    """Seconds of a load beside reading."""
    free: float = 0.01
    """Seconds from the order to stop until the model's memory is back."""
    exit: float = 0.4
    """The same until the process is gone, and what it took for itself."""
    prefill: float = 9700.0
    """Tokens a second."""
    decode: float = 250.0
    """Tokens a second of one answer that runs alone."""
    batching: float = 0.55
    """n answers of one model together give n^batching times the tokens of one: 1 = no cost, 0 = no gain."""

    def load_seconds(self, model: LocalModel) -> float:
        return self.load_overhead + model.footprint.weights / self.read

    def prefill_rate(self, model: LocalModel, together: int) -> float:
        """Tokens a second of each of `together` prompts: a prompt fills the device by itself."""
        return self.prefill * _pace(model) / together

    def decode_rate(self, model: LocalModel, together: int) -> float:
        """Tokens a second of each of `together` answers."""
        rate: float = self.decode * _pace(model) * together ** (self.batching - 1)
        return rate


def _pace(model: LocalModel) -> float:
    return min(REFERENCE / max(model.footprint.weights, 1), FASTEST)
