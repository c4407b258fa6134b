from __future__ import annotations

import pytest

from router.engine import llama_devices
from router.engine.batch import EngineError
from router.engine.llama_devices import device_of, library, pointers


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_devices, "gpus", lambda: (0x1000, 0x2000))


def test_named_devices_are_a_list_that_ends_with_a_null(two_gpus: None) -> None:
    assert list(pointers(("gpu1", "gpu0"))) == [0x2000, 0x1000, None]


def test_the_host_is_no_device_of_its_own(two_gpus: None) -> None:
    assert list(pointers(("host",))) == [None]


@pytest.mark.parametrize("name", ["gpu2", "gpu", "cuda0", "gpu-1", ""])
def test_a_device_that_this_build_does_not_have_is_an_error(two_gpus: None, name: str) -> None:
    with pytest.raises(EngineError, match=r"no device .*; its devices: gpu0, gpu1"):
        pointers((name,))


def test_ordinary_memory_is_the_hosts() -> None:
    kind = llama_devices.function("ggml_backend_cpu_buffer_type", llama_devices._ctypes.c_void_p)()
    assert device_of(kind) == "host"


@pytest.mark.parametrize("name", ["llama", "ggml", "ggml-base"])
def test_a_library_is_the_one_that_is_loaded(name: str) -> None:
    (path,) = llama_devices._mapped(name)
    assert path.name.startswith(f"lib{name}.so")
    assert library(name)._name == str(path)


def test_a_missing_library_is_an_engine_error() -> None:
    with pytest.raises(EngineError, match="not beside"):
        library("no-such-library")
