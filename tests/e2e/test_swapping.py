"""Real models take turns in a budget for one of them, driven by the real openai client."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from openai import OpenAI

from tests.e2e.conftest import Start
from tests.e2e.gateway import Gateway

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]


def chat(client: OpenAI, model: str, tokens: int = 8) -> tuple[str, str | None]:
    """A streamed chat: its text and how it finished."""
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Name a colour."}],
        max_tokens=tokens,
        temperature=0,
        stream=True,
    )
    text, finish = "", None
    for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    return text, finish


class Watcher:
    """Scrapes /metrics until told to stop, keeping the largest sum of bytes that it saw."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._done = threading.Event()
        self.scrapes = 0
        self.worst = 0.0
        self.budget = 0.0

    def __enter__(self) -> Watcher:
        self._thread = threading.Thread(target=self._watch, name="watcher")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            samples = self._gateway.metrics()
            kinds = {
                dict(labels)["kind"]: value
                for (name, labels), value in samples.items()
                if name == "router_device_bytes"
            }
            self.scrapes += 1
            self.budget = kinds["budget"]
            self.worst = max(self.worst, kinds["used"] + kinds["reserved"])


def test_a_then_b_then_a_again_with_the_openai_package(start: Start) -> None:
    gateway = start()
    first = chat(gateway.openai, "a")
    other = chat(gateway.openai, "b")
    again = chat(gateway.openai, "default")
    assert first[0] and first[1] in {"stop", "length"}
    assert other[0]
    assert again == first  # greedy: the same model says the same after two swaps
    assert gateway.total("router_swaps_total", model="a") == 2
    assert gateway.total("router_swaps_total", model="b") == 1
    assert gateway.total("router_evictions_total", reason="pressure") == 2
    assert gateway.total("router_requests_total", code="200") == 3


def test_two_clients_alternating_in_a_budget_for_one_lose_nothing(start: Start) -> None:
    gateway = start()

    def client(model: str) -> list[str | None]:
        return [chat(gateway.openai, model, tokens=12)[1] for _ in range(6)]

    with Watcher(gateway) as watcher, ThreadPoolExecutor(2) as pool:
        finishes = [f for fs in pool.map(client, ["a", "b"]) for f in fs]
    assert len(finishes) == 12
    assert set(finishes) <= {"stop", "length"}
    assert watcher.scrapes > 5
    assert 0 < watcher.worst <= watcher.budget
    assert gateway.total("router_requests_total") == 12
    assert gateway.total("router_requests_total", code="200") == 12


def test_eight_streams_at_once_share_one_worker(start: Start, demo_models: dict[str, object]) -> None:
    gateway = start(models={"a": {"path": str(demo_models["q4_1"]), "context": 512, "slots": 8}})
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: chat(gateway.openai, "a", 24), range(8)))
    assert len({text for text, _ in answers}) == 1, "greedy answers differ between slots"
    assert gateway.total("router_swaps_total") == 1
    assert len(gateway.workers()) == 1


def test_g22_after_many_swaps_the_gateway_is_as_at_the_start(start: Start) -> None:
    gateway = start()
    process = psutil.Process(gateway.process.pid)

    def swap(times: int) -> None:
        for turn in range(times):
            answer = gateway.openai.completions.create(model="ab"[turn % 2], prompt="Hi", max_tokens=1)
            assert answer.choices[0].finish_reason == "length"

    def settled() -> tuple[int, int]:
        """Open files and children, once they are one worker and one spare."""
        gateway.until(lambda: len(gateway.children()) == 2)
        return process.num_fds(), process.memory_info().rss

    swap(20)  # past the first-time costs: imports, caches, thread pools
    files, rss = settled()
    swap(100)
    assert gateway.total("router_swaps_total") == 120
    files_after, rss_after = settled()
    assert files_after == files
    assert rss_after - rss < 2 * 2**20
