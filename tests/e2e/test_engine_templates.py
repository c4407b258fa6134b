"""Chat templates out of model files, rendered in the worker of a real gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.engine import tiny
from tests.engine.templates import MACROS, NESTED, THINKING, turns

pytestmark = [pytest.mark.model, pytest.mark.timeout(180)]

HOSTILE = {
    "round": "{{ 2.0 | round(300000000, 'ceil') }}",
    "shared": NESTED + "{{ nested == [nested[0], nested[1]] }}",
    "bytes": "{{ (1).to_bytes(999999999) }}",
}


def test_long_chats_are_answered_and_hostile_templates_are_the_callers_news(
    start: Start, tmp_path: Path
) -> None:
    templates = {"thinking": THINKING, "macros": MACROS, **HOSTILE}
    models = {
        name: {
            "path": str(tiny.llama(tmp_path / f"{name}.gguf", template=text, context=65536)),
            "context": 65536,
        }
        for name, text in templates.items()
    }
    gateway = start(models=models, budget="2GiB")

    def chat(model: str, count: int, text: str) -> tuple[int, str]:
        messages = [{"role": turn.role, "content": turn.content} for turn in turns(count, text)]
        asked = {"model": model, "messages": messages, "max_tokens": 1}
        response = gateway.http.post("/v1/chat/completions", json=asked)
        return response.status_code, response.text

    assert chat("thinking", 501, "a")[0] == 200
    assert chat("macros", 757, "a")[0] == 200
    status, text = chat("thinking", 181, "word " * 400)  # more letters than this context has tokens
    assert (status, "context_length_exceeded" in text) == (400, True)
    for name in HOSTILE:
        status, text = chat(name, 1, "a")
        assert (status, "chat template" in text) == (400, True)
    assert gateway.total("router_evictions_total", reason="crashed") == 0
