"""
`python -m tests.bench.peer`: llama-server of the very llama.cpp source that the project runs on, built once.

The one rule: nothing is installed; source, tools and build live in the user's cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

from router.settings import cache_home

ENGINE = "llama-cpp-python"
OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",  # it would be downloaded while building
    "-DLLAMA_OPENSSL=OFF",
)
BEAT = 12.0
"""Seconds between two signs of life."""

Say = Callable[[str], None]


class PeerError(Exception):
    """The message says what failed and shows the end of the log."""


def find(cache: Path | None = None) -> Path:
    """Where the peer is, or will be: one for each version of the engine."""
    return (cache or cache_home()) / "peer" / metadata.version(ENGINE) / "llama-server"


def build(say: Say) -> Path:
    """The peer's binary, built if it is not there. Raises PeerError. Minutes on two cores."""
    binary = find()
    if binary.exists():
        return binary
    place = binary.parent
    place.mkdir(parents=True, exist_ok=True)
    log = place / "build.log"
    log.write_bytes(b"")
    env = {**os.environ, "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1)}
    say(f"building llama-server from the source of {ENGINE} {metadata.version(ENGINE)}; the log is {log}")
    source = _source(place, log, env, say)
    cmake, env = _cmake(place, log, env, say)
    made = place / "build"
    cuda = ["-DGGML_CUDA=on"] if _gpu() else []
    run([cmake, "-S", str(source), "-B", str(made), *OPTIONS, *cuda], log, env, say)
    run([cmake, "--build", str(made), "--target", "llama-server"], log, env, say)
    (built,) = [path for path in made.rglob("llama-server") if path.is_file() and os.access(path, os.X_OK)]
    shutil.copy2(built, binary.with_suffix(".new"))
    binary.with_suffix(".new").replace(binary)
    shutil.rmtree(made)
    return binary


def _source(place: Path, log: Path, env: Mapping[str, str], say: Say) -> Path:
    """The llama.cpp inside the engine's source package."""
    unpacked = place / "source"
    if not unpacked.exists():
        # Only this package from source: with ":all:" pip would compile cmake and ninja as well.
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ENGINE]
        run([*pip, "--dest", str(place), f"{ENGINE}=={metadata.version(ENGINE)}"], log, env, say)
        return unpack(place, unpacked)
    (found,) = unpacked.glob("*/vendor/llama.cpp")
    return found


def unpack(place: Path, target: Path) -> Path:
    """The one archive in `place` as the folder `target`; the llama.cpp in it."""
    (archive,) = place.glob("*.tar.gz")
    unfinished = target.with_suffix(".new")
    with tarfile.open(archive) as tar:
        tar.extractall(unfinished, filter="data")
    archive.unlink()
    unfinished.rename(target)
    (found,) = target.glob("*/vendor/llama.cpp")
    return found


def _cmake(place: Path, log: Path, env: dict[str, str], say: Say) -> tuple[str, dict[str, str]]:
    """cmake from PATH, else from the package index into the cache."""
    if cmake := shutil.which("cmake"):
        return cmake, env
    tools = place / "tools"
    if not tools.exists():
        run([sys.executable, "-m", "pip", "install", "--target", str(tools), "cmake"], log, env, say)
    return str(tools / "bin" / "cmake"), {**env, "PYTHONPATH": str(tools)}


def _gpu() -> bool:
    code = "import llama_cpp, sys; sys.exit(not llama_cpp.llama_supports_gpu_offload())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def run(command: list[str], log: Path, env: Mapping[str, str], say: Say) -> None:
    started = time.monotonic()
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env)
        try:
            while True:
                try:
                    status = process.wait(BEAT)
                    break
                except subprocess.TimeoutExpired:
                    say(f"  {time.monotonic() - started:.0f} s  {_last_line(log)}")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if status:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise PeerError(f"{' '.join(command)}\n{end}")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip()[:100] for line in reversed(lines) if line.strip()), "")


def main() -> int:
    try:
        print(build(lambda line: print(line, file=sys.stderr, flush=True)))
    except PeerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
