"""
Which file a model's `path` names, and what its header says.

The one rule: a problem of a file is a value, never an exception: one bad file must not stop the others.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cachetools import LRUCache

from router.domain.models import FileIdentity
from router.registry.schema import CachedFile, PackagedFile
from router.settings import NoHome, expanded
from router.sizing.gguf import GgufError, Header, read_header
from router.sizing.parts import identity, parts

# By path and identity, so that a reload reads only what changed. A header is some 100 KB.
_headers: LRUCache[tuple[Path, FileIdentity], Header] = LRUCache(maxsize=128)


NO_FILE = FileIdentity()


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model's file as it is now: either `header` or `problem` is there."""

    path: Path
    identity: FileIdentity = NO_FILE
    header: Header | None = None
    problem: str | None = None


def find(path: str | CachedFile | PackagedFile, home: Path, cache: Path) -> ModelFile:
    """The file behind a `path` of the registry in the directory `home`, looked at."""
    try:
        return look(locate(path, home, cache))
    except LookupError as error:
        return ModelFile(Path(_shown(path)), problem=str(error.args[0]))


def _shown(path: str | CachedFile | PackagedFile) -> str:
    match path:
        case str():
            return path
        case CachedFile():
            return f"cache:{path.cache}"
        case PackagedFile():
            return f"{path.package}:{path.file}"


def locate(path: str | CachedFile | PackagedFile, home: Path, cache: Path) -> Path:
    """The absolute path; nothing says that it exists. Raises LookupError with the reason."""
    match path:
        case str():
            return _user_path(path, home)
        case CachedFile():
            return cache.absolute() / "models" / _inside(path.cache)
        case PackagedFile():
            return _packaged(path.package, _inside(path.file))


def look(path: Path) -> ModelFile:
    """Read the header of the file, or remember it from the last time that the file was the same."""
    first = NO_FILE
    try:
        path.stat()
        first = identity(part for part in parts(path) if part.exists())
        known = _headers.get((path, first))
        if known is not None and all(part.exists() for part in known.files):
            return ModelFile(path, identity(known.files), known)
        header = read_header(path)
        _headers[path, first] = header
        return ModelFile(path, identity(header.files), header)
    except FileNotFoundError:
        return ModelFile(path, problem=f"no such file: {path}")
    except (OSError, ValueError) as error:
        return ModelFile(path, problem=f"{path}: {getattr(error, 'strerror', None) or error}")
    except GgufError as error:
        return ModelFile(path, first, problem=str(error))


def missing(path: Path) -> bool:
    """True when the file, or a part of it, is not there. What is there and broken is not missing."""
    try:
        return not all(part.exists() for part in parts(path))
    except (OSError, ValueError):
        return False


def glance(path: Path) -> FileIdentity:
    """Like `identity`, of all the parts of a split model that are there; never an error. For polling."""
    try:
        return identity(part for part in parts(path) if part.exists())
    except (OSError, ValueError, IndexError):
        return NO_FILE


def _user_path(text: str, home: Path) -> Path:
    try:
        return home.absolute() / expanded(text)
    except NoHome as error:
        raise LookupError(error.message) from error


def _inside(text: str) -> Path:
    """A relative path that stays where it is put."""
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts:
        raise LookupError(f"expected a file name without .. and without a / in front, got {text!r}")
    return Path(path)


def _packaged(package: str, file: Path) -> Path:
    """Looked up without importing the package."""
    for root in _package_folders(package):
        if (root / file).exists():
            return root / file
    try:
        distribution = importlib.metadata.distribution(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        if not _package_folders(package):
            raise LookupError(f"no Python package {package!r} is installed") from None
        raise LookupError(f"the Python package {package!r} has no file {str(file)!r}") from None
    for entry in distribution.files or ():
        if Path(entry) == file or entry.name == str(file):
            return Path(str(distribution.locate_file(entry))).absolute()
    raise LookupError(f"the Python package {package!r} has no file {str(file)!r}")


def _package_folders(package: str) -> list[Path]:
    name = package.replace("-", "_")
    if not name.isidentifier():  # a dotted name would import its parents
        return []
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []
    return [Path(folder).absolute() for folder in (spec.submodule_search_locations or ())] if spec else []
