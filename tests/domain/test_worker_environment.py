from __future__ import annotations

import pytest

from router.domain.worker_environment import reaches_workers


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "HOME",
        "LC_ALL",
        "PYTHONPATH",
        "CUDA_VISIBLE_DEVICES",
        "GGML_CUDA_FORCE_MMQ",
        "OMP_NUM_THREADS",
    ],
)
def test_what_libraries_and_drivers_read_passes(name: str) -> None:
    assert reaches_workers(name)


@pytest.mark.parametrize(
    "name",
    [
        "ROUTER_BIG_AUTH", "ROUTER_CACHE", "PYTHON_BIG", "PYTHONSTARTUP", "CUDA_BIG", "NVIDIA_BIG", "LLAMA_BIG", "MKL_BIG",
        "OPENBLAS_BIG", "GGML_API_KEY", "OMP_AUTH", "PATHOLOGY", "MY_PATH", "path", "http_proxy", "",
        "OMP_PROC_BIND", "GOMP_CPU_AFFINITY",
    ],
)  # fmt: skip
def test_nothing_else_does_however_it_begins(name: str) -> None:
    assert not reaches_workers(name)
