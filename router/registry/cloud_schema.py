"""
What a human writes of everything beyond this machine: upstreams, peers, routes, and what may spill to them.

The one rule: shapes and single values only, as in `schema`; a key's value is never among them.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Discriminator, Field, Tag

from router.domain.routes import CloudMode, Quality
from router.domain.worker_environment import reaches_workers
from router.registry.fields import Duration, Name, Pause, Section, Text, checked, quantity

MAX_USD = 1_000_000
QUANTS = ("Q2_K", "Q3_K_M", "Q4_0", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0", "F16")
_USD = {"type": "number", "minimum": 0, "maximum": MAX_USD}
_ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


def _usd(value: object) -> Decimal:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_USD:
        return Decimal(str(value))
    raise ValueError(f"expected US dollars as a number from 0 to {MAX_USD}")


def _bad_url(text: str) -> str | None:
    try:
        url = urlsplit(text)
        host, _ = url.hostname, url.port
    except ValueError:
        return "expected an address such as https://api.example.com/v1"
    if url.scheme not in ("https", "http") or not host or not text.isascii() or " " in text:
        return "expected an address such as https://api.example.com/v1"
    if url.username is not None or url.password is not None:
        return "credentials do not belong in an address: use api_key: {env: NAME}"
    if url.query or url.fragment:
        return "expected an address without ? and #"
    return None


Usd = Annotated[Decimal, *quantity(_usd, _USD)]
Address = Annotated[
    str,
    checked(lambda text: _bad_url(text)),
    Field(max_length=1024, json_schema_extra={"pattern": "^https?://"}),
]


def _bad_env(text: str) -> str | None:
    if not _ENV.fullmatch(text):
        return "expected the name of an environment variable"
    if reaches_workers(text):
        return f"worker processes see {text}: keep the key in a variable of another name, such as BIG_API_KEY"
    return None


EnvName = Annotated[str, checked(_bad_env)]


class EnvKey(Section):
    """A key in an environment variable of the gateway."""

    env: EnvName


class FileKey(Section):
    """A key in a file: its text without the white space around it."""

    file: Text
    """Absolute, ~, or relative to this registry."""


def _kind_of_key(value: object) -> str | None:
    if not isinstance(value, dict):
        return None
    return next((f"key:{kind}" for kind in ("env", "file") if kind in value), None)


ApiKey = Annotated[
    Annotated[EnvKey, Tag("key:env")] | Annotated[FileKey, Tag("key:file")],
    Discriminator(
        _kind_of_key,
        custom_error_type="plain",
        custom_error_message="expected {env: NAME} or {file: path}: a key itself does not belong in this file",
    ),
]


class Price(Section):
    """US dollars per million tokens."""

    input: Usd
    output: Usd


class Budget(Section):
    """US dollars, by days and months of UTC. What does not fit any more is refused, or goes to the next candidate."""

    day: Usd | None = None
    month: Usd | None = None


class Timeouts(Section):
    """How long an upstream may be silent. Only data counts: comments, blank lines and empty events are silence."""

    connect: Pause | None = None
    """Name, TCP and TLS. Default 5s."""
    first_byte: Pause | None = None
    """Until the first data of a streamed answer; then the next candidate is asked. Default 60s."""
    idle: Pause | None = None
    """Between two pieces of data. Default 60s."""
    total: Pause | None = None
    """The whole exchange, connection included; the answer is cut there. Default: as long as it takes."""


class Endpoint(Section):
    """What upstreams and peers have in common."""

    base_url: Address
    """Up to and with /v1. https, or http where allow_private is true."""
    api_key: ApiKey | None = None
    allow_private: bool = False
    """Also plain http, and addresses that are not public: loopback, your own network."""
    ca_file: Text | None = None
    """PEM certificates to trust instead of the public ones."""
    timeouts: Timeouts | None = None


class Cloud(Endpoint):
    """One model of an OpenAI-compatible endpoint."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    """What the endpoint calls it."""
    aliases: list[Name] | None = None
    price: Price | None = None
    """Omitted: it costs nothing, and no budget holds it back."""
    budget: Budget | None = None
    max_tokens: Annotated[int, Field(ge=1, le=10_485_760)] | None = None
    """What an answer may have if the request does not say, so that its worst case can be paid. Default 4096."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    """The field that carries it. Default max_tokens."""
    context: Annotated[int, Field(ge=16, le=10_485_760)] | None = None
    """Tokens of prompt and answer together, for /v1/models."""
    data_collection: Literal["allow", "deny"] = "allow"
    """deny: you know that it keeps nothing, so requests with provider.data_collection: deny may go there."""


class Peer(Endpoint):
    """
    Another gateway: Router, llama-server, vLLM or Ollama. Its models are candidates named `peer/model`.

    They have no price, and come before a local model that is not in memory while they are in the peer's.
    """

    models: Annotated[list[Name], Field(min_length=1, max_length=100)]
    """What the peer calls them."""


class Spill(Section):
    """When a request goes on to the next candidate rather than wait."""

    max_wait: Duration | None = None
    """Spill when the wait for memory and a slot is expected to be longer. Default 20s."""
    max_price: Price | None = None
    """Only to upstreams whose prices are at most these."""


class Route(Section):
    """
    A virtual model: candidates, best first. The next one is asked when one refuses, cannot be loaded, crashes before
    its first token, is over budget, down or slow; never after the first token.

    A route with an upstream or a peer in it may hold no model that says `cloud: never` (the default): write
    `cloud: fallback` there, or `cloud: spill` if the route spills. So no request for such a model can leave through it.
    """

    candidates: Annotated[list[Name], Field(min_length=1, max_length=32)]
    """Names or aliases of models, of cloud entries, and `peer/model`."""
    aliases: list[Name] | None = None
    cloud: CloudMode | None = None
    """Default: spill with a `spill` section, else fallback where an upstream is a candidate, else never."""
    spill: Spill | None = None
    accuracy: Literal["high"] | None = None
    """It answers requests that ask for it (x-router-accuracy: high) of any of its candidates, or of a route that
    shares one."""
    reasoning_effort: Literal["high"] | None = None
    """A request with this reasoning_effort asks for accuracy, too."""
    quality: Quality | None = None
    """What it is for. agentic and code: a candidate under Q4_K_M is a warning."""
    min_quant: Literal[QUANTS] | None = None  # type: ignore[valid-type]
    """No local candidate may be quantised below it: Q5_K_M or Q8_0 for long reasoning."""
