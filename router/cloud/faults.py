"""
What went wrong at an upstream, as our errors: one table of exceptions, one of statuses.

The one rule: an upstream's own words go on only when they are about the request, cleaned and short; never our key.
"""

from __future__ import annotations

import contextlib
import email.utils
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx2
import msgspec

from router.cloud.addresses import AddressRefused, NoAddress
from router.cloud.events import BadAnswer
from router.domain.errors import UpstreamError, UpstreamRefused, UpstreamUnavailable

MAX_WORDS = 1000
"""Characters of an upstream's message that are told."""
LONGEST_RETRY_AFTER = 86_400.0

_OURS = {
    401: "refuses the gateway's key",
    402: "wants to be paid first",
    403: "refuses the gateway's key",
    404: "does not know the model or the path",
}
"""Statuses that are about how the operator set the upstream up, not about the request."""
_LATER = frozenset({408, 409, 425, 429})
_WAITED = frozenset({504, 524})
"""A proxy gave up waiting; what is behind it may have answered, and billed."""

NAMED = (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, AddressRefused, NoAddress, BadAnswer, OSError)


@contextlib.contextmanager
def named(upstream: str, waited: Callable[[], str]) -> Iterator[None]:
    """Failures of the network become UpstreamUnavailable. `waited` says what a timeout was about."""
    try:
        yield
    except NAMED as error:
        reason, words, *inside = _explained(error, waited)
        raised = UpstreamUnavailable(f"{upstream} {words}.", upstream, reason)
        for note in inside:
            raised.add_note(note)
        raise raised from error


def _explained(error: Exception, waited: Callable[[], str]) -> tuple[str, ...]:
    """Reason and words; then what only the operator is told: hosts, certificates, files."""
    match error:
        case AddressRefused():
            return "address", "is not where it may be", str(error)
        case NoAddress():
            return "connect", "cannot be found", str(error)
        case BadAnswer():
            return "protocol", f"answers what no OpenAI-compatible endpoint does: {error}"
        case httpx2.PoolTimeout():
            return "busy", "has as many requests under way as it may have"
        case TimeoutError() | httpx2.TimeoutException():
            return "timeout", waited()
        case httpx2.ConnectError() | ssl.SSLError():
            wrong = _certificate(error)
            return ("tls", "cannot be trusted", wrong) if wrong else ("connect", "cannot be reached")
        case httpx2.NetworkError() | httpx2.RemoteProtocolError():
            return "cut", "closed the connection before its answer was complete"
        case OSError():
            return "tls", "cannot be trusted", f"its ca_file cannot be read ({error.strerror})"
        case _:
            return "protocol", f"cannot be talked to ({type(error).__name__})"


def _certificate(error: BaseException) -> str | None:
    """What is wrong with TLS, if that is what is wrong."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, ssl.SSLCertVerificationError):
            return link.verify_message
        if isinstance(link, ssl.SSLError):
            return f"TLS failed ({link.reason or 'no reason given'})"
        link = link.__cause__ or link.__context__
    return None


def of_status(
    upstream: str,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    key: str | None,
    now: float | None = None,
) -> UpstreamError:
    """The error that a status other than 2xx is. `now`: seconds since 1970, for a Retry-After that is a date."""
    if 300 <= status < 400:
        words = f"{upstream} answers with a redirect ({status}), which is never followed."
        return UpstreamUnavailable(words, upstream, "setup")
    if status in _OURS:
        return UpstreamUnavailable(f"{upstream} {_OURS[status]} ({status}).", upstream, "setup")
    if status in _LATER or not 400 <= status < 500:
        reason = "rate_limited" if status == 429 else "timeout" if status in _WAITED else "status"
        words = (
            f"{upstream} takes no more requests now (429)."
            if status == 429
            else f"{upstream} failed ({status})."
        )
        return UpstreamUnavailable(words, upstream, reason, retry_after(headers, now))
    told = _told(body)
    message = clean(told.get("message"), key) or f"{upstream} refused the request ({status})."
    kind = clean(told.get("type"), key)[:100] or "invalid_request_error"
    code, param = (clean(told.get(name), key)[:100] or None for name in ("code", "param"))
    return UpstreamRefused(message, upstream, status, kind, code, param)


def of_error_object(upstream: str, error: Any, key: str | None) -> UpstreamUnavailable:
    """An error that was sent with a status of 200, as some do."""
    words = clean(error.get("message") if isinstance(error, Mapping) else error, key)
    return UpstreamUnavailable(f"{upstream} failed: {words or 'no reason given'}", upstream, "status")


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds, from `retry-after-ms` or `Retry-After` (a number or a date); None when nothing sensible is there."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        if (milliseconds := headers.get("retry-after-ms")) is not None:
            return _bounded(float(milliseconds) / 1000)
    value = headers.get("retry-after")
    if value is None:
        return None
    with contextlib.suppress(ValueError, OverflowError):
        return _bounded(float(value))
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return _bounded(
            email.utils.parsedate_to_datetime(value).timestamp() - (time.time() if now is None else now)
        )
    return None


def _bounded(seconds: float) -> float | None:
    # NaN compares false with everything.
    return min(LONGEST_RETRY_AFTER, max(0.0, seconds)) if seconds == seconds else None


def clean(text: object, key: str | None) -> str:
    """Somebody else's text as one short printable line without our key; "" for what is no text."""
    if isinstance(text, int) and not isinstance(text, bool):
        text = str(text) if abs(text) < 10**9 else ""
    if not isinstance(text, str):
        return ""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * MAX_WORDS]).split())
    if key:
        line = line.replace(key, "[key]")
    return line[:MAX_WORDS]


def _told(body: bytes) -> Mapping[str, Any]:
    """The error object of an OpenAI-style body: `{"error": {...}}`, `{"error": "..."}` or the object itself."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    error = found.get("error", found)
    return error if isinstance(error, dict) else {"message": error}
