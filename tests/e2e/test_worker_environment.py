"""A credential of the operator's stands in the gateway's environment: no worker of a real gateway sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.gateway import Gateway, running, write_registry

CANARY = "canary-7f3a"
NAMES = ["ROUTER_BIG_AUTH", "PYTHON_BIG", "CUDA_BIG", "LLAMA_BIG", "OPENBLAS_BIG", "BIG"]
MODELS: dict[str, dict[str, object]] = {"a": {"path": "a.gguf"}}


def upstream(name: str) -> dict[str, object]:
    return {"base_url": "https://api.example.com/v1", "model": "m", "api_key": {"env": name}}


def environments(gateway: Gateway) -> list[bytes]:
    return [Path(f"/proc/{pid}/environ").read_bytes() for pid in gateway.children()]


@pytest.mark.process
def test_no_worker_sees_a_key_whatever_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, CANARY)
    registry = write_registry(
        tmp_path / "registry.yaml", MODELS, cloud={name.lower(): upstream(name) for name in NAMES}
    )
    with running(registry, tmp_path, "--backend", "echo") as gateway:
        gateway.until(lambda: bool(gateway.children()))
        assert all(environments(gateway))
        assert not any(CANARY.encode() in environment for environment in environments(gateway))


@pytest.mark.process
def test_an_edit_that_keeps_a_key_where_workers_look_is_refused(tmp_path: Path) -> None:
    registry = write_registry(tmp_path / "registry.yaml", MODELS)
    with running(registry, tmp_path, "--backend", "echo") as gateway:
        gateway.edit(cloud={"big": upstream("OMP_SCHEDULE")})
        gateway.eventually("worker processes see OMP_SCHEDULE: keep the key in a variable of another name")
        assert gateway.http.get("/readyz").json()["registry_edit_refused"]
