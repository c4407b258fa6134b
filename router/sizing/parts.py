"""
Which files a model is: one, or the parts of a split one; and which bytes they are now.

The one rule: what is asked of a model's file is asked of all its parts, whoever asks (registry, launcher, ledger).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from router.domain.models import FileIdentity

MAX_PARTS = 9_999
_FIRST = re.compile(r"(.*)-00001-of-(\d{5})\.gguf", re.DOTALL)


def parts(path: Path) -> list[Path]:
    """The files that belong together by their names, first part first; nothing says that they exist."""
    match = _FIRST.fullmatch(path.name)
    count = int(match[2]) if match else 1
    if match is None or not 1 < count <= MAX_PARTS:
        return [path]
    return [path, *(path.with_name(f"{match[1]}-{n:05}-of-{count:05}.gguf") for n in range(2, count + 1))]


def identity(files: Iterable[Path]) -> FileIdentity:
    """
    Which bytes these files are now; of several parts all of them count. Raises OSError.

    Several parts have sizes added up and, for an inode, a number made of all that tells each of them apart.
    """
    seen = [file.stat() for file in files]
    if len(seen) == 1:
        (one,) = seen
        return FileIdentity(one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns)
    told = repr([(s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) for s in seen]).encode()
    return FileIdentity(
        device=seen[0].st_dev,
        inode=int.from_bytes(hashlib.blake2b(told, digest_size=7).digest()),
        size=sum(status.st_size for status in seen),
        modified_ns=max(status.st_mtime_ns for status in seen),
    )
