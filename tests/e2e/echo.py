"""A gateway with echo workers in a process of its own, with streams of the test's choosing: no model is needed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from tests.e2e.gateway import Gateway, end, free_port, write_registry
from tests.engine import tiny

File = int | IO[Any]
ROUTER = ("-m", "router")
SLOW = "slow.gguf?step_ms=50"
"""A file name that is an echo's script, too: 20 tokens a second."""


def registry(folder: Path, **top: object) -> Path:
    """`quick` and `slow`, with room for both."""
    tiny.llama(folder / "quick.gguf")
    (folder / SLOW).write_bytes((folder / "quick.gguf").read_bytes())
    models = {"quick": {"path": str(folder / "quick.gguf")}, "slow": {"path": str(folder / SLOW)}}
    return write_registry(folder / "registry.yaml", models, devices={"host": {"budget": "1GiB"}}, **top)


@contextlib.contextmanager
def serving(
    registry: Path,
    *,
    stdout: File,
    stderr: File,
    program: tuple[str, ...] = ROUTER,
    flags: tuple[str, ...] = (),
    env: Mapping[str, str | None] | None = None,
    folder: Path | None = None,
    **popen: Any,
) -> Iterator[Gateway]:
    """
    `env`: changes of this process's environment; None removes. `folder` holds cache and log, if not the registry's.

    The caller waits until it is ready.
    """
    folder = folder or registry.parent
    port = free_port()
    told = ["serve", "--registry", str(registry), "--port", str(port), "--backend", "echo", *flags]
    changed = {"ROUTER_CACHE": str(folder / "cache"), **(env or {})}
    outer = {k: v for k, v in {**os.environ, **changed}.items() if v is not None}
    process = subprocess.Popen(
        [sys.executable, *program, *told], stdout=stdout, stderr=stderr, env=outer, **popen
    )
    log = folder / "gateway.log"
    log.touch()
    gateway = Gateway(process, port, registry, log)
    try:
        yield gateway
    finally:
        gateway.close()
        end(process)


def ask(gateway: Gateway, model: str = "quick", **more: object) -> int:
    """The status of one completion."""
    body = {"model": model, "prompt": "Hi", "max_tokens": 2, **more}
    status: int = gateway.http.post("/v1/completions", json=body).status_code
    return status
