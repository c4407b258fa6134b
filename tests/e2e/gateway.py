"""A whole gateway in a process of its own, driven from outside: what every end-to-end test starts from."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import psutil
import yaml
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Gateway:
    def __init__(self, process: subprocess.Popen[bytes], port: int, registry: Path, log: Path) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.registry = registry
        self.log = log
        self.http = httpx2.Client(base_url=self.url, timeout=60, trust_env=False)
        self.openai = OpenAI(base_url=f"{self.url}/v1", api_key="none", timeout=60, max_retries=0)

    def close(self) -> None:
        self.http.close()
        self.openai.close()

    def metrics(self) -> Samples:
        families = text_string_to_metric_families(self.http.get("/metrics").text)
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }

    def total(self, name: str, **labels: str) -> float:
        """The sum of all series of this name that carry these labels."""
        wanted = set(labels.items())
        return sum(v for (n, ls), v in self.metrics().items() if n == name and wanted <= set(ls))

    def edit(self, **changes: object) -> None:
        """Save the registry with these top-level keys replaced, as an editor does: write aside, rename."""
        document = {**yaml.safe_load(self.registry.read_text()), **changes}
        self.save(yaml.safe_dump(document, sort_keys=False))

    def save(self, text: str) -> None:
        aside = self.registry.with_suffix(".tmp")
        aside.write_text(text)
        aside.replace(self.registry)

    def workers(self) -> dict[int, str]:
        """pid -> model of every resident worker."""
        running = self.http.get("/running").json()["running"]
        return {entry["pid"]: entry["model"] for entry in running if entry.get("pid")}

    def reason(self, message: str) -> str:
        """What the log says of the request that an error's message names: clients are told no insides."""
        (request,) = re.findall(r"under request ([0-9a-f]{32})", message)
        about: list[str] = []

        def found() -> bool:
            about[:] = [
                line for line in self.log.read_text().splitlines() if request in line and "reason" in line
            ]
            return bool(about)

        self.until(found)
        return " ".join(about)

    def children(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.process.pid).children(recursive=True)}

    def wait(self, path: str = "/readyz", status: int = 200, seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert self.process.poll() is None, f"the gateway ended: {self.log.read_text()[-4000:]}"
            with contextlib.suppress(httpx2.TransportError):
                if self.http.get(path).status_code == status:
                    return
            time.sleep(0.05)
        raise AssertionError(f"{path} did not answer {status}: {self.log.read_text()[-4000:]}")

    def eventually(self, what: str) -> None:
        """Wait until the log has a line that contains `what`."""
        self.until(lambda: what in self.log.read_text())

    def until(self, holds: Callable[[], bool], seconds: float = 20) -> None:
        limit = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < limit, f"it did not come true: {self.log.read_text()[-4000:]}"
            time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def write_registry(path: Path, models: dict[str, dict[str, object]], **top: object) -> Path:
    """JSON is YAML: a registry that needs no quoting rules."""
    path.write_text(json.dumps({"version": 1, **top, "models": models}, indent=1))
    return path


@contextlib.contextmanager
def running(registry: Path, tmp_path: Path, *flags: str, wait: bool = True) -> Iterator[Gateway]:
    """Start `router serve`, wait until it is ready, end it by signal whatever happens."""
    port = free_port()
    log = tmp_path / f"gateway-{port}.log"
    command = [sys.executable, "-m", "router", "serve", "--registry", str(registry), "--port", str(port)]
    env = {**os.environ, "ROUTER_CACHE": str(tmp_path / "cache")}
    with log.open("wb") as out:
        process = subprocess.Popen([*command, *flags], stdout=out, stderr=out, env=env)
    gateway = Gateway(process, port, registry, log)
    try:
        if wait:
            gateway.wait()
        yield gateway
    finally:
        gateway.close()
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
