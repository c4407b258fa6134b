"""
The operator's key for an upstream: read when it is used, from where the registry says it is.

The one rule: a key's value is in no error, no log, no repr; only the place where it should be is named, in a note.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from router.domain.errors import UpstreamUnavailable
from router.domain.upstreams import KeySource, Upstream

MAX_KEY = 8192
"""Bytes of a key file that are read at most."""


def read(upstream: Upstream, environment: Mapping[str, str] = os.environ) -> str | None:
    """
    The key, or None where the upstream needs none. A file is read anew each time, so that keys can be rotated.

    Raises UpstreamUnavailable(reason="key"): another candidate may do. Its note says what is wrong where.
    """
    source = upstream.api_key
    if source is None:
        return None
    found, missing = _from_env(source, environment) if source.kind == "env" else _from_file(source)
    key = found.strip()
    if not missing and not (key.isascii() and key.isprintable() and " " not in key):
        missing = "holds what is no key: one line of printable ASCII is"
    if missing or not key:
        place = f"environment variable {source.name}" if source.kind == "env" else f"file {source.name}"
        error = UpstreamUnavailable(f"The gateway has no key for {upstream.name}.", upstream.name, "key")
        # For the operator: a client is told no paths of this machine.
        error.add_note(f"the {place} {missing or 'is empty'}")
        raise error
    return key


def _from_env(source: KeySource, environment: Mapping[str, str]) -> tuple[str, str]:
    value = environment.get(source.name)
    return ("", "is not set") if value is None else (value, "")


def _from_file(source: KeySource) -> tuple[str, str]:
    """The text and what is wrong with it. Never waits: a pipe in place of a file would stop the gateway."""
    path = Path(source.name)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "", "is no regular file"
        with path.open("rb") as file:
            text = file.read(MAX_KEY + 1)
    except OSError as error:
        return "", f"cannot be read ({error.strerror})"
    if len(text) > MAX_KEY:
        return "", f"has more than {MAX_KEY} bytes"
    return text.decode("utf-8", "replace"), ""
