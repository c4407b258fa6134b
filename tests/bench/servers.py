"""
The two servers of a comparison, each in processes of its own, ended whatever happens.

The one rule: both get the same files, context, slots and machine; their other settings are their own defaults.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

START_SECONDS = 120.0


@contextlib.contextmanager
def gateway(
    folder: Path, models: Mapping[str, str], budget: int, context: int, slots: int, *flags: str
) -> Iterator[str]:
    """`router serve` over these models (name -> path); the URL. `budget` in bytes."""
    registry = registry_file(folder / "registry.yaml", models, budget, context, slots)
    port = free_port()
    command = [sys.executable, "-m", "router", "serve", "--registry", str(registry), "--port", str(port)]
    with running([*command, *flags], port, "/readyz", folder / "gateway.log") as url:
        yield url


def registry_file(path: Path, models: Mapping[str, str], budget: int, context: int, slots: int) -> Path:
    document = {
        "version": 1,
        "devices": {"auto": {"budget": budget}},
        "defaults": {"context": context, "slots": slots, "ttl": "never"},
        "models": {name: {"path": file} for name, file in models.items()},
    }
    path.write_text(json.dumps(document))
    return path


@contextlib.contextmanager
def peer(binary: Path, folder: Path, *arguments: str) -> Iterator[str]:
    """llama-server with these arguments; the URL."""
    port = free_port()
    command = [str(binary), "--host", "127.0.0.1", "--port", str(port), *arguments]
    with running(command, port, "/health", folder / "peer.log") as url:
        yield url


@contextlib.contextmanager
def running(command: list[str], port: int, health: str, log: Path) -> Iterator[str]:
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        wait(process, url + health, lambda: log.read_text(errors="replace"))
        yield url
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait(process: subprocess.Popen[bytes], url: str, log: Callable[[], str]) -> None:
    """Until it answers 200. Raises RuntimeError, with the end of its log, if it does not."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError):
            if urllib.request.urlopen(url, timeout=2).status == 200:
                return
        time.sleep(0.1)
    end = "\n".join(log().splitlines()[-20:])
    raise RuntimeError(f"{url} did not become ready:\n{end}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
