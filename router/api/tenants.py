"""
Whose request it is, as workers and peers are told: an id from which nobody learns the key.

The one rule: equal for the same key and header while this process lives, different for every other key.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable

from router.registry.loader import Key

HEADER = b"x-router-tenant"
"""
A client's own division of what its key asks, such as a gateway's clients at its peer. It can only divide: two
requests with different keys never share, whatever they say.
"""
_SECRET = os.urandom(32)


def tenant(key: Key | None, said: Iterable[bytes] = ()) -> str:
    """`said`: the values of HEADER. "" for everybody who has no key and says nothing."""
    parts = list(said)
    if key is None and not parts:
        return ""
    digest = hashlib.blake2b(b"" if key is None else key.sha256.lower().encode(), key=_SECRET, digest_size=16)
    for part in parts:
        digest.update(b"\n" + part)
    return digest.hexdigest()
