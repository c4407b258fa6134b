"""
What dry runs measured, kept on disk, so that a model is measured once and not at every start.

The one rule: a cache. Content that is broken, foreign or too large is no content, and a directory that cannot
be written only costs the next start its time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import msgspec

from router.domain.models import EngineOptions, FileIdentity, Footprint, LocalModel

MAX_ENTRIES = 1024
MAX_BYTES = 4 * 2**20
"""Of the file; full, it has some 200 kB."""
_VERSION = 2


Devices = dict[str, Footprint]
"""By device name."""


class _Key(msgspec.Struct, frozen=True):
    build: str
    path: str
    file: FileIdentity
    engine: EngineOptions


class _Content(msgspec.Struct, frozen=True):
    version: int
    footprints: dict[str, Devices]
    """By digest of the key; the least recently used first."""


class Ledger:
    """Footprints by engine build, file and engine options. The last of two writers wins."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._footprints = _read(path)

    def get(self, build: str, model: LocalModel) -> Devices | None:
        digest = _digest(build, model)
        found = self._footprints.pop(digest, None)
        if found is not None:
            self._footprints[digest] = found
        return found

    def put(self, build: str, model: LocalModel, footprints: Devices) -> None:
        """Keep and save. Kept in memory alone where it cannot be saved."""
        digest = _digest(build, model)
        self._footprints.pop(digest, None)
        self._footprints[digest] = footprints
        while len(self._footprints) > MAX_ENTRIES:
            del self._footprints[next(iter(self._footprints))]
        with contextlib.suppress(OSError):
            _write(self._path, _Content(_VERSION, self._footprints))


def _digest(build: str, model: LocalModel) -> str:
    key = _Key(build, model.path, model.file, model.engine)
    return hashlib.sha256(msgspec.json.encode(key)).hexdigest()


def _read(path: Path) -> dict[str, Devices]:
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return {}
        content = msgspec.json.decode(path.read_bytes(), type=_Content)
    except (OSError, ValueError, RecursionError):
        return {}
    sound = content.version == _VERSION and all(map(_possible, content.footprints.values()))
    return dict(list(content.footprints.items())[-MAX_ENTRIES:]) if sound else {}


def _possible(devices: Devices) -> bool:
    parts = ((f.weights, f.kv_cache, f.compute, f.overhead) for f in devices.values())
    return bool(devices) and all(size >= 0 for sizes in parts for size in sizes)


def _write(path: Path, content: _Content) -> None:
    """Replace the file in one step: a reader sees the old or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".new")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(content), indent=1))
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
