"""
Is the file still the one that the registry described, and the one that was pinned?

The one rule: nothing is read on the event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Callable
from pathlib import Path

from cachetools import LRUCache

from router.domain.errors import LoadFailed
from router.domain.models import FileIdentity, LocalModel
from router.sizing.parts import identity, parts

_CHUNK = 2**25


def check_identity(model: LocalModel) -> None:
    """Raises LoadFailed if the path names other bytes than when the registry was read."""
    if model.file == FileIdentity():
        return  # not a file: the echo backend's script
    try:
        now = identity(parts(Path(model.path)))
    except OSError as error:
        raise LoadFailed(
            f"The file of {model.name} cannot be read: {error.strerror}: {model.path}"
        ) from error
    if now != model.file:
        raise LoadFailed(
            f"The file of {model.name} was replaced since the registry was read: {model.path}; "
            "the registry will be read again"
        )


class Hashes:
    """SHA-256 of model files, computed once per content; of a split model its parts are read one after the other."""

    def __init__(self) -> None:
        self._known: LRUCache[tuple[str, FileIdentity], str] = LRUCache(1024)

    def known(self, model: LocalModel) -> bool:
        """True if `verify` will not have to read the file."""
        return model.sha256 is None or (model.path, model.file) in self._known

    async def verify(self, model: LocalModel, progress: Callable[[float], None]) -> None:
        """Raises LoadFailed, naming both hashes, unless the file is the one that was pinned (G18)."""
        if model.sha256 is None:
            return
        key = (model.path, model.file)
        found = self._known.get(key) or await self._hash(model, progress)
        check_identity(model)  # else a file written meanwhile would be remembered under the old identity
        self._known[key] = found
        if found != model.sha256.lower():
            raise LoadFailed(
                f"{model.path} is not the file that the registry pins for {model.name}: "
                f"its sha256 is {found}, pinned is {model.sha256.lower()}"
            )

    async def _hash(self, model: LocalModel, progress: Callable[[float], None]) -> str:
        digest = hashlib.sha256()
        total, done = max(1, model.file.size), 0
        try:
            for part in parts(Path(model.path)):
                file = await asyncio.to_thread(part.open, "rb", 0)
                with file:
                    while read := await asyncio.to_thread(_hash_chunk, file, digest):
                        done += read
                        progress(min(1.0, done / total))
        except OSError as error:
            raise LoadFailed(f"{model.path} cannot be read: {error.strerror}") from error
        return digest.hexdigest()


def _hash_chunk(file: io.FileIO, digest: hashlib._Hash) -> int:
    data = file.read(_CHUNK)
    digest.update(data)
    return len(data)
