"""What large bodies take is given back: the resident memory of a real gateway."""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from tests.e2e import echo
from tests.e2e.gateway import Gateway, running

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]
MiB = 2**20
STAYS = 64 * MiB
"""More than before, after 480 MB of bodies: 300 to 400 MiB stayed without the release."""
TEXT = "a" * 7_500_000
BODIES = {
    "too long": {"model": "quick", "prompt": TEXT},
    "chat": {"model": "quick", "messages": [{"role": "user", "content": TEXT}]},
    "unknown": {"model": "nobody", "prompt": TEXT},
}


def post(gateway: Gateway, body: bytes) -> int:
    with closing(http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=120)) as connection:
        connection.request("POST", "/v1/completions", body=body)
        answer = connection.getresponse()
        answer.read()
        return answer.status


def test_memory_of_large_bodies_is_given_back(tmp_path: Path) -> None:
    with running(echo.registry(tmp_path), tmp_path, "--backend", "echo") as gateway:
        assert echo.ask(gateway) == 200
        process = psutil.Process(gateway.process.pid)
        before = process.memory_info().rss
        for said in BODIES.values():
            body = json.dumps(said).encode()
            with ThreadPoolExecutor(16) as clients:
                statuses = set(clients.map(lambda _, body=body: post(gateway, body), range(64)))
            assert statuses <= {400, 404}, statuses
            gateway.until(lambda: process.memory_info().rss < before + STAYS, seconds=30)
