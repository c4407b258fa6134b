"""
What dry runs planned and what loads were measured to take, kept on disk: a model is measured once, not at
every start.

The one rule: a cache. Content that is broken, foreign or too large is no content, and a directory that cannot
be written only costs the next start its time.

Kinds of entries:
* planned: footprints by engine build, model file and engine options, from a dry run;
* refused: why the engine does not run that file with those options; by the file itself even where its hash is
  pinned, since a pin says what the file should be and not what it is;
* measured: the same key, from a worker that served: the largest that was seen, device by device;
* overhead: bytes by engine build and device that a process holds beyond llama.cpp's buffers on a GPU (CUDA
  context, kernels, scratch pools), the largest that was seen. A plan of a model never loaded counts with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from router.domain.models import EngineOptions, FileIdentity, Footprint, LocalModel

MAX_ENTRIES = 1024
MAX_BYTES = 4 * 2**20
"""Of the file; full, it has some 700 kB."""
_VERSION = 2
_JITTER = 2**20
"""So much more is no news: the heap of a process is never twice the same."""
_MAX_OVERHEAD = 8 * 2**30
_MAX_REASON = 1000
"""Characters."""

Sizes = Mapping[str, Footprint]
"""Footprints by device name."""


class _Key(msgspec.Struct, frozen=True):
    build: str
    path: str
    file: FileIdentity | None
    engine: EngineOptions


class _Entry(msgspec.Struct, frozen=True):
    planned: dict[str, Footprint] | None = None
    measured: dict[str, Footprint] | None = None
    refused: str | None = None


class _Content(msgspec.Struct, frozen=True):
    version: int
    entries: dict[str, _Entry]
    """By digest of the key; the least recently used first."""
    overheads: dict[str, int]
    """By build and device."""


class Ledger:
    """The last of two writers wins."""

    def __init__(self, path: Path) -> None:
        self._path = path
        content = _read(path)
        self._entries = content.entries
        self._overheads = content.overheads

    def planned(self, build: str, model: LocalModel, engine: EngineOptions) -> Sizes | None:
        """What a dry run said of the model placed like `engine`."""
        return self._get(build, model, engine).planned

    def refused(self, build: str, model: LocalModel, engine: EngineOptions) -> str | None:
        """Why the engine refused the model placed like `engine`; None = it was not seen to."""
        return self._get(build, _unpinned(model), engine).refused

    def measured(self, build: str, model: LocalModel, engine: EngineOptions) -> Sizes | None:
        """The most that a worker was seen to hold."""
        return self._get(build, model, engine).measured

    def overhead(self, build: str, device: str) -> int | None:
        """Bytes that a process holds on a GPU beyond its buffers; None before the first was measured."""
        return self._overheads.get(f"{build}|{device}")

    def plan(self, build: str, model: LocalModel, engine: EngineOptions, sizes: Sizes) -> None:
        """Keep and save. Kept in memory alone where it cannot be saved."""
        known = self._get(build, model, engine)
        self._put(build, model, engine, _Entry(dict(sizes), known.measured))

    def refuse(self, build: str, model: LocalModel, engine: EngineOptions, reason: str) -> None:
        """Keep and save why it is not run, until build, file or options change."""
        self._put(build, _unpinned(model), engine, _Entry(refused=reason[:_MAX_REASON]))

    def measure(self, build: str, model: LocalModel, engine: EngineOptions, sizes: Sizes) -> Sizes:
        """Keep what was measured where it is more than before; returns what is known now."""
        known = self._get(build, model, engine)
        most = dict(known.measured or {})
        for device, held in sizes.items():
            if device not in most or held.total > most[device].total + _JITTER:
                most[device] = held
        if most != known.measured:
            self._put(build, model, engine, _Entry(known.planned, most))
        return most

    def calibrate(self, build: str, device: str, overhead: int) -> None:
        """Keep the largest."""
        key = f"{build}|{device}"
        if self._overheads.get(key, 0) < overhead <= _MAX_OVERHEAD:
            self._overheads[key] = overhead
            self._save()

    def _get(self, build: str, model: LocalModel, engine: EngineOptions) -> _Entry:
        digest = _digest(build, model, engine)
        entry = self._entries.pop(digest, None)
        if entry is None:
            return _Entry()
        self._entries[digest] = entry
        return entry

    def _put(self, build: str, model: LocalModel, engine: EngineOptions, entry: _Entry) -> None:
        digest = _digest(build, model, engine)
        self._entries.pop(digest, None)
        self._entries[digest] = entry
        while len(self._entries) > MAX_ENTRIES:
            del self._entries[next(iter(self._entries))]
        self._save()

    def _save(self) -> None:
        with contextlib.suppress(OSError):
            _write(self._path, _Content(_VERSION, self._entries, self._overheads))


def _unpinned(model: LocalModel) -> LocalModel:
    return msgspec.structs.replace(model, sha256=None)


def _digest(build: str, model: LocalModel, engine: EngineOptions) -> str:
    """A file whose hash the registry states is the same file wherever it lies."""
    key = (
        _Key(build, model.sha256, None, engine)
        if model.sha256
        else _Key(build, model.path, model.file, engine)
    )
    return hashlib.sha256(msgspec.json.encode(key)).hexdigest()


def _read(path: Path) -> _Content:
    nothing = _Content(_VERSION, {}, {})
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return nothing
        content = msgspec.json.decode(path.read_bytes(), type=_Content)
    except (OSError, ValueError, RecursionError):
        return nothing
    if content.version != _VERSION or not all(map(_possible, content.entries.values())):
        return nothing
    overheads = {key: size for key, size in content.overheads.items() if 0 <= size <= _MAX_OVERHEAD}
    return _Content(_VERSION, dict(list(content.entries.items())[-MAX_ENTRIES:]), overheads)


def _possible(entry: _Entry) -> bool:
    if entry.refused is not None and not (entry.refused.isprintable() and len(entry.refused) <= _MAX_REASON):
        return False
    every = [*(entry.planned or {}).values(), *(entry.measured or {}).values()]
    return all(part >= 0 for f in every for part in (f.weights, f.kv_cache, f.compute, f.overhead))


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
