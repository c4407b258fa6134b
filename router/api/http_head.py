"""
HTTP as this gateway takes it: h11, and what h11 lets through that a proxy before us may read in another way.

The one rule: a request of which two readers could disagree where it ends, or whom it asks, is refused.
"""

from __future__ import annotations

import re
from typing import Any

import h11

MAX_HEAD = 64 * 2**10
"""Bytes of a request's line and headers, and of the trailers behind its body."""
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)


class Parser(h11.Connection):
    """The server's side of one connection."""

    def next_event(self) -> Any:
        """As h11's. Raises h11.RemoteProtocolError, after which nothing more may be read."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            _check_size(len(event.target), event.headers)
            _check_framing(event)
            return _in_origin_form(event)
        if isinstance(event, h11.EndOfMessage):
            _check_size(0, event.headers)
        return event


def _check_size(target: int, headers: Any) -> None:
    """h11 bounds what it waits for only: a head that comes in one piece may have any size."""
    if target + sum(len(name) + len(value) + 4 for name, value in headers) > MAX_HEAD:
        raise h11.RemoteProtocolError("the head is too large", error_status_hint=431)


def _check_framing(request: h11.Request) -> None:
    """Request smuggling: h11 takes the chunks, and whoever stands before us may have taken the length."""
    names = {name for name, _ in request.headers}
    if b"transfer-encoding" not in names:
        return
    if b"content-length" in names:
        raise h11.RemoteProtocolError("Content-Length and Transfer-Encoding exclude each other")
    if request.http_version < b"1.1":
        raise h11.RemoteProtocolError("HTTP/1.0 has no Transfer-Encoding")


def _in_origin_form(request: h11.Request) -> h11.Request:
    """`GET http://host/path`, as proxies are asked: the host of the target counts, and not the header (RFC 9112, 3.2.2)."""
    absolute = _ABSOLUTE.fullmatch(request.target)
    if absolute is None or request.method == b"CONNECT":
        return request
    authority, path = absolute.groups()
    if not authority or b"@" in authority:
        raise h11.RemoteProtocolError("the target names no host")
    headers = [(name, value) for name, value in request.headers if name != b"host"]
    return h11.Request(
        method=request.method,
        target=path if path.startswith(b"/") else b"/" + path,
        headers=[(b"host", authority), *headers],
        http_version=request.http_version,
    )
