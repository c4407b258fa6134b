"""
The devices as llama.cpp lists them, by our names: "gpu0", "gpu1", ... in its order, and "host".

The one rule: what these pointers stand for lives as long as the process; nothing here is freed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from router.engine.batch import EngineError
from router.engine.llama_log import llama

HOST = "host"

_ctypes = llama.ctypes
_GPU, _INTEGRATED = 1, 2  # ggml_backend_dev_type


@functools.cache
def library(name: str) -> Any:
    """
    One of the shared libraries that are loaded already. Raises EngineError.

    The very one: a second copy from another folder would know other devices than llama.cpp does.
    """
    folder = Path(llama.__file__).parent / "lib"
    found = [*_mapped(name), *sorted(folder.glob(f"lib{name}.*"))]
    if not found:
        raise EngineError(f"The library {name} is not beside the bindings.")
    return _ctypes.CDLL(str(found[0]))


def _mapped(name: str) -> list[Path]:
    """Where the library was loaded from, by the system's word; nothing where it does not tell."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    paths = (Path(line.partition("/")[2]) for line in lines if "/" in line)
    return [
        Path("/") / path for path in paths if re.fullmatch(rf"lib{re.escape(name)}\.so[.\d]*", path.name)
    ][:1]


def function(name: str, result: Any, *arguments: Any, of: str = "ggml-base") -> Any:
    """A function of a shared library with its types."""
    found = getattr(library(of), name)
    found.restype, found.argtypes = result, list(arguments)
    return found


@functools.cache
def gpus() -> tuple[int, ...]:
    """Pointers to the GPUs; integrated ones only where there are no others, as llama.cpp chooses."""
    llama.llama_supports_gpu_offload()  # loads the backends
    count = function("ggml_backend_dev_count", _ctypes.c_size_t, of="ggml")()
    get = function("ggml_backend_dev_get", _ctypes.c_void_p, _ctypes.c_size_t, of="ggml")
    kind = function("ggml_backend_dev_type", _ctypes.c_int, _ctypes.c_void_p)
    every = [get(number) for number in range(count)]
    cards = [device for device in every if kind(device) == _GPU]
    return tuple(cards or [device for device in every if kind(device) == _INTEGRATED])


def pointers(names: Sequence[str]) -> Any:
    """
    What `llama_model_params.devices` wants: the devices of these names, then a null. "host" adds none.

    Raises EngineError for a device that this build does not have.
    """
    known = gpus()
    chosen = [known[_number(name, len(known))] for name in names if name != HOST]
    return (_ctypes.c_void_p * (len(chosen) + 1))(*chosen, None)


def device_of(buffer_type: Any) -> str:
    """Whose memory a buffer of this type takes."""
    is_host = function("ggml_backend_buft_is_host", _ctypes.c_bool, _ctypes.c_void_p)
    device = function("ggml_backend_buft_get_device", _ctypes.c_void_p, _ctypes.c_void_p)(buffer_type)
    if is_host(buffer_type) or device not in gpus():
        return HOST
    return f"gpu{gpus().index(device)}"


def _number(name: str, count: int) -> int:
    number = name.removeprefix("gpu")
    if name.startswith("gpu") and number.isdecimal() and int(number) < count:
        return int(number)
    there = ", ".join(f"gpu{n}" for n in range(count)) or "none"
    raise EngineError(f"This build of llama.cpp has no device {name}; its devices: {there}.")
