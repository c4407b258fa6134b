"""
Where an upstream really is: its name becomes addresses once, here, and connections go to those very addresses.

The one rule: an address is judged after the look-up and not looked up again, so that a name cannot change its mind.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Awaitable, Callable, Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Lookup = Callable[[str, int], Awaitable[Sequence[str]]]

KEPT_SECONDS = 60.0
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class AddressRefused(Exception):
    """The name leads where it may not."""


class NoAddress(Exception):
    """The name leads nowhere."""


async def system_lookup(host: str, port: int) -> Sequence[str]:
    """Addresses as the system's resolver orders them. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Addresses:
    """Looks names up and remembers them for a minute."""

    def __init__(self, lookup: Lookup = system_lookup, clock: Callable[[], float] = time.monotonic) -> None:
        self._lookup = lookup
        self._clock = clock
        self._known: dict[tuple[str, int], tuple[float, tuple[str, ...]]] = {}

    async def of(self, host: str, port: int, *, private: bool, public: bool = True) -> tuple[str, ...]:
        """
        Addresses to connect to, best first.

        `private`: those within this machine's networks are good; `public`: the others are.
        Raises AddressRefused when what was found may not be used, NoAddress when nothing was.
        """
        found = await self._found(host, port)
        good = tuple(a for a in found if (public if is_public(a) else private))
        if not good:
            kind = "a public address" if is_public(found[0]) else "an address that is not public"
            raise AddressRefused(f"{host} is {kind}")
        return good

    async def _found(self, host: str, port: int) -> tuple[str, ...]:
        literal = host.strip("[]")
        if _parsed(literal) is not None:
            return (literal,)
        known = self._known.get((host, port))
        if known is not None and self._clock() - known[0] < KEPT_SECONDS:
            return known[1]
        try:
            found = tuple(await self._lookup(host, port))
        except (OSError, UnicodeError) as error:
            raise NoAddress(f"the name {host} cannot be looked up") from error
        if not found:
            raise NoAddress(f"the name {host} has no address")
        self._known[host, port] = (self._clock(), found)
        return found


def is_public(text: str) -> bool:
    """True for what is routed on the internet. What carries another address inside is judged by that one, too."""
    address = _parsed(text)
    if address is None:
        return False
    inner = _inner(address) if isinstance(address, ipaddress.IPv6Address) else None
    if inner is not None:
        return _global(inner)
    return _global(address)


def _global(address: Address) -> bool:
    return address.is_global and not address.is_multicast


def _inner(address: ipaddress.IPv6Address) -> Address | None:
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.teredo is not None:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour


def _parsed(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
