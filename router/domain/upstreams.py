"""
What an upstream is: an OpenAI-compatible endpoint beyond this machine, its price and its budgets.

Values only. Money is whole micro-dollars (1 USD = 1,000,000), never a float; a key is a reference, never its value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Literal

import msgspec

MICRO = 1_000_000
"""Micro-dollars of one US dollar."""


class KeySource(msgspec.Struct, frozen=True):
    """Where the operator's key is: the name of an environment variable, or the path of a file."""

    kind: Literal["env", "file"]
    name: str


class Price(msgspec.Struct, frozen=True):
    """USD per million tokens, which is micro-dollars per token."""

    input: Decimal
    output: Decimal

    def of(self, prompt_tokens: int, completion_tokens: int) -> int:
        """Micro-dollars, rounded up: what is counted is never less than what is owed."""
        return math.ceil(self.input * prompt_tokens + self.output * completion_tokens)


class Budget(msgspec.Struct, frozen=True):
    """Micro-dollars that may be spent in a day and in a month, both by UTC; None = no limit."""

    day: int | None = None
    month: int | None = None


class Timeouts(msgspec.Struct, frozen=True):
    """Seconds. What counts is data: comments, blank lines and events that say nothing keep nobody waiting longer."""

    connect: float = 5.0
    """Name look-up, TCP and TLS together."""
    first_byte: float = 60.0
    """From the request sent to the answer's first data, of a stream."""
    whole: float = 600.0
    """The same of an answer that is not streamed: upstreams are silent until it is complete."""
    idle: float = 60.0
    """Between two pieces of data of an answer."""
    total: float | None = None
    """The exchange as a whole, from the look-up of the name to the last byte; None = a long answer is no fault."""


class Upstream(msgspec.Struct, frozen=True):
    """One `cloud:` entry of the registry, or a peer: another gateway, with no price."""

    name: str
    base_url: str
    """Up to and with `/v1`; https, or http where `allow_private` is set."""
    model: str
    """The upstream's own name of the model."""
    api_key: KeySource | None = None
    price: Price | None = None
    """None = free."""
    budget: Budget = Budget()
    """For all callers together."""
    budgets_by_key: Mapping[str, Budget] = {}
    """For single callers, by the name of their key; each counts beside `budget`."""
    allow_private: bool = False
    """Permits http and addresses that are not public: loopback, private, link-local."""
    ca_file: str | None = None
    """PEM certificates to trust instead of the public ones."""
    timeouts: Timeouts = Timeouts()
    max_tokens: int = 4096
    """What a request to a priced upstream may generate if it does not say; sent along, so that the worst case is one."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The field that carries it where the client sent neither."""
    context: int | None = None
    """Tokens of prompt and answer together, as far as the operator told."""
    retains: bool = True
    """False when the operator knows that it keeps nothing of a request."""
    peer: bool = False
    """Another gateway: its `/v1/models` says what is resident."""

    def cost(self, prompt_tokens: int, completion_tokens: int) -> int:
        """Micro-dollars."""
        return self.price.of(prompt_tokens, completion_tokens) if self.price else 0


def usd(micro: int) -> str:
    """As people and headers read it: `0.000150`, always six digits."""
    return f"{Decimal(micro) / MICRO:.6f}"


def micro_of(dollars: Decimal) -> int:
    """Of a budget: rounded down, so that it is never exceeded."""
    return math.floor(dollars * MICRO)
