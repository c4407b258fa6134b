"""
Which HTTP answer each error gets: one table, and a test that fails on an error without a row.

The one rule: an error on the wire says what the client can do about it, and nothing about our insides.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from starlette.responses import Response

from router.api import sse
from router.api.naming import NOTHING, Hidden, without
from router.api.wire import encode
from router.domain import errors as domain

LONGEST_RETRY = 120
"""Seconds; what a client is told to wait at most."""


class BadKey(domain.RouterError):
    """No key, or one that the registry does not know."""


class NotAllowed(domain.RouterError):
    """The key is good; what was asked is for a key that may use every model."""


class RateLimited(domain.Unavailable):
    """The key has sent as many requests in this minute as it may."""


class WrongHost(domain.InvalidRequest):
    """The Host header names somebody else: most likely a page that rebound its name to this address."""


class ForeignPage(domain.InvalidRequest):
    """A browser sent it for a page of an origin that is not allowed."""


class BodyTooLarge(domain.InvalidRequest):
    """The body has more bytes than the gateway takes."""


class BodyTooSlow(domain.InvalidRequest):
    """The client stopped in the middle of its body."""


class BadHttp(domain.InvalidRequest):
    """What came is no HTTP request."""


class HeadTooLarge(domain.InvalidRequest):
    """The headers have more bytes than the gateway takes."""


class HeadTooSlow(domain.InvalidRequest):
    """The client stopped in the middle of its headers."""


class TooManyConnections(domain.Unavailable):
    """More clients are connected than the gateway has room for."""


class NoSuchPath(domain.InvalidRequest):
    """Nothing is served here."""


class WrongMethod(domain.InvalidRequest):
    """The path is served, by other methods: `allowed`."""

    def __init__(self, method: str, path: str, allowed: tuple[str, ...]) -> None:
        super().__init__(f"{method} is not possible on {path}; use {' or '.join(allowed)}.")
        self.allowed = allowed


@dataclass(frozen=True, slots=True)
class Row:
    status: int
    type: str
    code: str | None


_CALLER = "invalid_request_error"
_SERVER = "server_error"

TABLE: dict[type[domain.RouterError], Row] = {
    domain.InvalidRequest: Row(400, _CALLER, None),
    domain.UnknownModel: Row(404, _CALLER, "model_not_found"),
    domain.ContextOverflow: Row(400, _CALLER, "context_length_exceeded"),
    domain.Unsupported: Row(400, _CALLER, None),
    domain.QueueFull: Row(429, "rate_limit_error", "queue_full"),
    domain.LeaseTimeout: Row(503, _SERVER, "model_loading"),
    domain.DoesNotFit: Row(503, _SERVER, "insufficient_vram"),
    domain.DoesNotFitNow: Row(503, _SERVER, "insufficient_vram_now"),
    domain.LoadFailed: Row(503, _SERVER, "model_load_failed"),
    domain.Unloaded: Row(503, _SERVER, "model_load_failed"),
    domain.ModelRefused: Row(503, _SERVER, "model_load_failed"),
    domain.WorkerCrashed: Row(502, _SERVER, "worker_crashed"),
    domain.WorkerStopped: Row(503, _SERVER, "worker_stopped"),
    domain.ShuttingDown: Row(503, _SERVER, "shutting_down"),
    domain.ModelBusy: Row(409, _CALLER, "model_busy"),
    domain.UpstreamRefused: Row(400, _CALLER, None),  # its own status and fields: see `row`
    domain.UpstreamUnavailable: Row(503, _SERVER, "upstream_unavailable"),
    domain.OverBudget: Row(429, "insufficient_quota", "over_budget"),
    domain.SpendUnknown: Row(503, _SERVER, "spend_unknown"),
    domain.UpstreamBroken: Row(502, _SERVER, "upstream_broken"),
    domain.PolicyRefused: Row(403, "permission_error", "cloud_forbidden"),
    domain.RegistryInvalid: Row(422, _CALLER, "registry_invalid"),
    BadKey: Row(401, "authentication_error", "invalid_api_key"),
    NotAllowed: Row(403, "permission_error", "model_not_allowed"),
    RateLimited: Row(429, "rate_limit_error", "rate_limit_exceeded"),
    WrongHost: Row(421, _CALLER, "wrong_host"),
    ForeignPage: Row(403, "permission_error", "origin_not_allowed"),
    BodyTooLarge: Row(413, _CALLER, "request_too_large"),
    BodyTooSlow: Row(408, _CALLER, "request_timeout"),
    BadHttp: Row(400, _CALLER, "bad_http"),
    HeadTooLarge: Row(431, _CALLER, "headers_too_large"),
    HeadTooSlow: Row(408, _CALLER, "request_timeout"),
    TooManyConnections: Row(503, _SERVER, "too_many_connections"),
    NoSuchPath: Row(404, _CALLER, "not_found"),
    WrongMethod: Row(405, _CALLER, "method_not_allowed"),
}
_FOR_THE_OPERATOR = frozenset({"setup", "key", "address"})
"""Reasons of UpstreamUnavailable that are about how the upstream was set up here."""
UNEXPECTED = Row(500, _SERVER, "internal_error")

FACTS: dict[type[Exception], str] = {
    domain.Unloaded: "The model was unloaded by an operator while the request waited for it.",
    domain.LoadFailed: "The model cannot be loaded now.",
    domain.WorkerStopped: "The model was stopped before its answer was complete.",
    domain.WorkerCrashed: "The process that answered ended before its answer was complete.",
}
"""Errors whose messages are of our insides: last words, exits, files. What a client is told of them."""
_PATH = re.compile(r"(?<![\w/])/[^\s'\",;]*[^\s'\",;:.)]")


def row(error: Exception) -> Row:
    if isinstance(error, domain.UpstreamRefused):
        return Row(error.status, error.type, error.code)
    for kind in type(error).__mro__:
        if kind in TABLE:
            return TABLE[kind]
    return UNEXPECTED


def envelope(error: Exception, request_id: str, hidden: Hidden = NOTHING) -> dict[str, dict[str, str | None]]:
    """
    The body of an error: the four fields that clients read, always all of them.

    `hidden`: names that this client may not read. Messages that name nobody keep their words: a model may be called
    like one of them.
    """
    found = row(error)
    message = f"Something went wrong inside the gateway; its log has the details under request {request_id}."
    if fact := _fact(error):
        message = f"{fact} The operator's log has the reason under request {request_id}."
    elif found is not UNEXPECTED and isinstance(error, domain.RouterError):
        names_nobody = isinstance(error, domain.InvalidRequest) and not error.names_model
        message = error.message if names_nobody else without(hidden, error.message)
    if isinstance(error, domain.Unavailable):
        message = _PATH.sub("(a file)", message)
    param = getattr(error, "param", None)
    return {"error": {"message": message, "type": found.type, "param": param, "code": found.code}}


def inside(error: Exception) -> str | None:
    """What is for the log and not for the client; None when the client is told it all."""
    return error.message if isinstance(error, domain.RouterError) and _fact(error) else None


def _fact(error: Exception) -> str | None:
    return next((FACTS[kind] for kind in type(error).__mro__ if kind in FACTS), None)


def response(error: Exception, request_id: str, hidden: Hidden = NOTHING) -> Response:
    """The answer to a request that failed before its first byte."""
    body = encode(envelope(error, request_id, hidden))
    return Response(body, row(error).status, headers=_headers(error), media_type="application/json")


def event(error: Exception, request_id: str, hidden: Hidden = NOTHING) -> bytes:
    """
    The last event of a stream that failed after its first byte: without it, clients would see success.

    That no retry helps is a comment before it, since the headers are out.
    """
    last = sse.data(envelope(error, request_id, hidden))
    return sse.comment("should-retry=false") + last if is_final(error) else last


def is_final(error: Exception) -> bool:
    """
    Whether no retry helps until an operator changes something, though the status invites one (408, 409, 429, 5xx).

    A load is final when nobody knows when it may be tried again: its file is missing or broken.
    """
    match error:
        case domain.DoesNotFit() | domain.OverBudget():
            return True
        case domain.LoadFailed():
            return error.retry_after is None
        case domain.UpstreamUnavailable():
            return error.reason in _FOR_THE_OPERATOR
        case _:
            return False


def _headers(error: Exception) -> dict[str, str]:
    if is_final(error):
        return {"x-should-retry": "false"}
    match error:
        case domain.Unavailable() | domain.UpstreamUnavailable():
            return {"retry-after": str(min(LONGEST_RETRY, max(1, math.ceil(error.retry_after or 1))))}
        case WrongMethod():
            return {"allow": ", ".join(error.allowed)}
        case BadKey():
            return {"www-authenticate": "Bearer"}
        case BodyTooLarge() | BodyTooSlow():
            return {"connection": "close"}
        case _:
            return {}
