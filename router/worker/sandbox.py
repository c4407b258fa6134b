"""
What a worker gives up before it reads a stranger's file: privileges, system calls, other files, the network.

Layers, each by name (`--sandbox`), each tried after it was set: `no_new_privs`; `rlimits` (no core dumps, which
would hold prompts; few files and tasks; memory, once the model's bytes are known); `seccomp`, for every thread,
once the engine is imported; `landlock`, for each thread that sees hostile input, when the model's path is known.

The one rule: a layer that the worker reports was seen to hold in this very process.
"""

from __future__ import annotations

import ctypes
import glob
import os
import re
import resource
import sys
import sysconfig
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import router
from router import protocol
from router.worker import landlock, life, seccomp

T = TypeVar("T")

_PR_SET_NO_NEW_PRIVS, _PR_GET_NO_NEW_PRIVS = 38, 39
_FILES = 4096
_TASKS = 4096
"""Threads beside all that run here now."""
_ENGINE_SLACK = 2**30
"""Bytes of private memory beside half as much again as the model: vocabulary, prompts, answers."""
_THREAD_STACK = 2**24
"""Bytes for each core's thread of the engine."""
_DRIVER_SLACK = 4 * 2**30
"""The same where a driver keeps copies and pinned buffers of its own."""
_MPS = "/tmp/nvidia-mps"
"""Where NVIDIA's multi-process server listens, if the operator runs it; its clients connect to a socket there."""
_SPLIT = re.compile(r"(.*)-\d{5}-of-(\d{5})\.gguf")

_READABLE = (
    "/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/sys", "/proc/self", "/proc/sys",
    "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/dev/null", "/dev/zero", "/dev/urandom", "/dev/random",
)  # fmt: skip
# The driver's: its nodes, its shared memory, the cache of what it compiled for this device.
_GPU_READABLE = (
    "/opt/cuda", "/opt/nvidia", "/opt/rocm", "/etc/nvidia", "/etc/OpenCL", "/etc/vulkan", "/proc/driver",
    "/proc/devices", "/proc/modules", "/proc/version", "/proc/filesystems",
)  # fmt: skip
_GPU_WRITABLE = ("/dev/shm", "/dev/dri", "/dev/kfd", "/proc/self", "~/.nv", "$CUDA_CACHE_PATH")


class SandboxMissing(Exception):
    """`--sandbox on`, and this kernel lacks a layer."""


class Sandbox:
    """`told`: as `protocol.sandbox_layers` reads it. `gpu`: the engine talks to a device."""

    def __init__(self, told: str = "off", gpu: bool = False) -> None:
        self._wanted = protocol.sandbox_layers(told)
        self._must = told == "on"
        self._gpu = gpu
        self.holds: tuple[str, ...] = ()
        """The layers that hold; `landlock` from `confine` on, until then it was tried on a thread of its own."""
        self._path = ""
        self._named = threading.Event()

    def enter(self) -> None:
        """Once, by the main thread, before there are others. Raises SandboxMissing."""
        held = []
        for layer in self._wanted:
            try:
                if sys.platform != "linux":
                    raise OSError("only Linux has it")
                if not _LAYERS[layer](self._gpu):
                    raise OSError(f"{layer} was set and does not hold")
                held.append(layer)
            except OSError as error:
                self._lacks(layer, error)
        self.holds = tuple(held)

    def confine(self, path: str) -> None:
        """From here on the calling thread opens no file but this model and what the engine runs on. Raises OSError."""
        self._path = path
        self._named.set()
        self._enter(path)

    def bound_memory(self, footprint: int) -> None:
        """
        Private memory from here on: what there is, half as much again as `footprint` (bytes of the host), and
        slack. Only where `rlimits` holds. More is refused as on a machine that has no more.
        """
        if "rlimits" not in self.holds:
            return
        slack = (_DRIVER_SLACK if self._gpu else _ENGINE_SLACK) + _THREAD_STACK * (os.cpu_count() or 1)
        _lower(resource.RLIMIT_DATA, private_bytes() + footprint + footprint // 2 + slack)

    def _enter(self, path: str) -> None:
        if "landlock" not in self.holds:
            return
        try:
            landlock.enter(self._readable(path), self._writable())
        except OSError as error:
            self._lacks("landlock", error)

    def confined(self, path: str, work: Callable[[], T]) -> T:
        """Do it on a thread of its own that is confined to this file; the caller's stays as it was."""
        result: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                self._enter(path)
                result.append(work())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run, name="confined", daemon=True)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return result[0]

    def confine_when_named(self) -> None:
        """For the thread that only takes signals: wait until the others know the model."""
        self._named.wait()
        self.confine(self._path)

    def _lacks(self, layer: str, error: OSError) -> None:
        life.log("warning", "a layer of the sandbox cannot be had", layer=layer, error=str(error))
        if self._must:
            raise SandboxMissing(f"--sandbox on, and {layer} cannot be had: {error}") from error

    def _readable(self, path: str) -> list[str | Path]:
        places = {os.path.realpath(place) for place in sysconfig.get_paths().values()}
        places |= {os.path.realpath(place) for place in (sys.prefix, sys.base_prefix)} - {"/"}
        places |= _packages()
        ours = Path(router.__file__).parent
        libraries = filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))
        driver = _GPU_READABLE if self._gpu else ()
        return [*_READABLE, *driver, *places, ours, *libraries, *parts(path)]

    def _writable(self) -> list[str | Path]:
        if not self._gpu:
            return ["/dev/null"]
        nodes = list(Path("/dev").glob("nvidia*"))
        return ["/dev/null", *nodes, *filter(None, map(_driver_place, _GPU_WRITABLE))]


def _driver_place(place: str) -> Path | None:
    """None where this user has no home: then the driver keeps nothing there either."""
    try:
        return Path(os.path.expandvars(place)).expanduser()
    except RuntimeError:
        return None


def _packages() -> set[str]:
    """Folders of the packages that are imported, wherever PYTHONPATH found them: the engine looks for its libraries."""
    roots = (
        getattr(module, "__path__", None) for name, module in list(sys.modules.items()) if "." not in name
    )
    return {os.path.realpath(folder) for root in roots if root for folder in root}


def parts(path: str) -> list[Path]:
    """The files of a model: itself, and where it is one of several, all of them."""
    file = Path(path)
    split = _SPLIT.fullmatch(file.name)
    if split is None:
        return [file]
    stem, count = split.groups()
    return sorted(file.parent.glob(f"{glob.escape(stem)}-?????-of-{count}.gguf"))


def private_bytes() -> int:
    """What this process has of what RLIMIT_DATA counts: its private, writable memory, used or not."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmData:\s*(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def no_new_privs(gpu: bool = False) -> bool:
    """Set-user-id programs give no rights any more; what seccomp and Landlock ask for first. True if it holds."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1)


def rlimits(gpu: bool = False) -> bool:
    """True if they hold."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_NOFILE, _FILES)
    # Counted for the whole user, so it must leave room for what else runs; root is not held by it.
    _lower(resource.RLIMIT_NPROC, _tasks() + _TASKS)
    return resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)


def _lower(limit: int, most: int) -> None:
    _, hard = resource.getrlimit(limit)
    most = most if hard == resource.RLIM_INFINITY else min(hard, most)
    resource.setrlimit(limit, (most, most))


def _tasks() -> int:
    """All threads of this machine: no fewer than those of this user."""
    return int(Path("/proc/loadavg").read_text().split()[3].split("/")[1])


def _seccomp(gpu: bool) -> bool:
    no_new_privs()
    served = gpu and (Path(_MPS).exists() or "CUDA_MPS_PIPE_DIRECTORY" in os.environ)
    seccomp.enter(sockets=served, driver=gpu)
    return seccomp.holds()


def _landlock(gpu: bool) -> bool:
    """
    Tried on a thread that ends with it: this process needs its files until the model is known.

    Raises OSError where a thread runs already: it would stay outside. A GPU's driver starts some of its own.
    """
    if (others := sum(1 for _ in Path("/proc/self/task").iterdir()) - 1) and not gpu:
        raise OSError(f"{others} threads were started before the sandbox and would stay outside it")
    no_new_privs()
    outcome: list[bool | OSError] = []

    def attempt() -> None:
        try:
            landlock.enter(["/dev/null"])
            outcome.append(not _opens(sys.executable) and _opens("/dev/null"))
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=attempt, name="landlock-test")
    thread.start()
    thread.join()
    if isinstance(outcome[0], OSError):
        raise outcome[0]
    return outcome[0]


def _opens(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except PermissionError:
        return False
    return True


_LAYERS: dict[str, Callable[[bool], bool]] = {
    "no_new_privs": no_new_privs,
    "rlimits": rlimits,
    "seccomp": _seccomp,
    "landlock": _landlock,
}


def main() -> None:
    """`python -m router.worker.sandbox`: print the layers that hold here."""
    sandbox = Sandbox("auto")
    sandbox.enter()
    sys.stdout.write(" ".join(sandbox.holds) + "\n")


if __name__ == "__main__":
    main()
