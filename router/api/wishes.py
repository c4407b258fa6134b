"""
What a client says about who may answer: headers, and the body's `provider`, `metadata` and `reasoning_effort`.

The one rule: what forbids something is read strictly, since a misspelt "deny" must not be an "allow".
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

import msgspec
from starlette.datastructures import Headers

from router.api.wire import UNREADABLE, Body, SamplingBody, decode_field, given
from router.domain.errors import InvalidRequest
from router.domain.upstreams import Price
from router.routing.plan import Wishes

LOCAL_ONLY = "x-router-local-only"
ACCURACY = "x-router-accuracy"
_TRUTHS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_ACCURACIES = {"high": True, "normal": False}
_ANY = Decimal("Infinity")


class MaxPrice(msgspec.Struct):
    """US dollars a million tokens."""

    prompt: float | str | None = None
    completion: float | str | None = None


class Provider(msgspec.Struct):
    """The part of OpenRouter's `provider` that means something here; the rest is the upstream's."""

    allow_fallbacks: bool | None = None
    data_collection: Literal["allow", "deny"] | None = None
    max_price: MaxPrice | None = None


class Metadata(msgspec.Struct):
    accuracy: Any = None


def wishes(headers: Headers, body: Body) -> Wishes:
    """Raises InvalidRequest."""
    provider = decode_field(body.provider, Provider, "provider") if given(body.provider) else Provider()
    effort = body.reasoning_effort if isinstance(body, SamplingBody) else None
    return Wishes(
        accuracy=_header(headers, ACCURACY, _ACCURACIES) or _accurate(body.metadata),
        effort=effort is not None and bytes(effort).strip() == b'"high"',
        local_only=_header(headers, LOCAL_ONLY, _TRUTHS),
        fallbacks=provider.allow_fallbacks is not False,
        retention=provider.data_collection != "deny",
        max_price=_most(provider.max_price),
    )


def _header(headers: Headers, name: str, words: Mapping[str, bool]) -> bool:
    """True if one of the headers of that name says so: a proxy may have added a second one."""
    values = [value.strip().lower() for value in headers.getlist(name)]
    for value in values:
        if value and value not in words:
            raise InvalidRequest(f"The header {name} may say {', '.join(words)}; not {value[:40]!r}.")
    return any(words[value] for value in values if value)


def _accurate(metadata: msgspec.Raw) -> bool:
    """`metadata` is the client's own: what is there for others is none of our business."""
    if not given(metadata):
        return False
    try:
        said: object = msgspec.json.decode(metadata, type=Metadata).accuracy
    except UNREADABLE:
        return False
    return said == "high"


def _most(price: MaxPrice | None) -> Price | None:
    return None if price is None else Price(_usd(price.prompt), _usd(price.completion))


def _usd(value: float | str | None) -> Decimal:
    if value is None:
        return _ANY
    try:
        price = Decimal(str(value))
    except InvalidOperation:
        price = Decimal(-1)
    if not price.is_finite() or price < 0:
        raise InvalidRequest("'provider.max_price': a price is a number of US dollars.", "provider.max_price")
    return price
