"""
Which pages of a browser may use a gateway that asks for no key: by Host and by Origin.

The one rule: pure look-ups in headers. Whoever sends a valid key is no page that only guessed the address.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from router.api.errors import ForeignPage, WrongHost

ANY = "*"
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#@]+|null")
_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|\[::1\]")


def problem(origin: str) -> str | None:
    """What is wrong with an origin that an operator wrote; None when it is one, or ANY."""
    if origin == ANY or _ORIGIN.fullmatch(origin):
        return None
    return f"{origin!r} is no origin: write https://chat.example.com (no path, no slash at the end), or *"


def check_host(host: str | None, loopback: bool, allowed: Collection[str]) -> None:
    """
    DNS rebinding: a stranger's name may resolve to this machine, and then his page is "same origin".

    Names other than loopback's own and the allowed ones are refused, when one of both is known to be all there
    is. Raises WrongHost.
    """
    if host is None or not (loopback or allowed):
        return
    name = _name(host)
    if (loopback and _LOOPBACK.fullmatch(name)) or name in {_name(known) for known in allowed}:
        return
    raise WrongHost(
        f"This gateway does not answer as {name[:100]!r}. If it should: router serve --allow-host {name[:100]}"
    )


def check_page(host: str | None, origin: str | None, site: str | None, allowed: Collection[str]) -> None:
    """
    `site` is Sec-Fetch-Site, which browsers send also where they send no Origin (images, links).

    Raises ForeignPage for a page of another origin that is not allowed.
    """
    if origin is None:
        if site in (None, "same-origin", "none"):
            return
        raise ForeignPage(_REFUSED.format("another site", "<its origin>"))
    if ANY in allowed or origin in allowed:
        return
    if host is not None and origin.partition("://")[2].lower() == host.lower():
        return
    raise ForeignPage(_REFUSED.format(repr(origin[:100]), origin[:100]))


_REFUSED = (
    "A page of {} may not use this gateway, which asks for no key. If it may: router serve --cors-origin {}"
)


def _name(host: str) -> str:
    """Without the port and the root's dot: "LocalHost.:8080" -> "localhost"."""
    return re.sub(r":\d*$", "", host.strip().lower()).removesuffix(".")
