from __future__ import annotations

import ctypes

import pytest

from router.engine import cuda
from router.engine.batch import EngineError


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch):
    cuda.driver.cache_clear()
    yield monkeypatch
    cuda.driver.cache_clear()


def test_a_machine_without_the_driver_is_an_engine_error(driver: pytest.MonkeyPatch):
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    driver.setattr(ctypes, "CDLL", missing)
    with pytest.raises(EngineError, match="no CUDA driver"):
        cuda.driver()


def test_a_call_that_fails_names_itself_and_its_code(driver: pytest.MonkeyPatch):
    class Refusing:
        def __getattr__(self, name: str):
            function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64)(
                lambda *_: 201
            )
            setattr(self, name, function)
            return function

    driver.setattr(ctypes, "CDLL", lambda name: Refusing())
    with pytest.raises(EngineError, match=r"cuPointerGetAttribute \(code 201\)"):
        cuda.device_of(4096)
