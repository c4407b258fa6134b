"""What goes to an upstream shows nothing of a client in logs."""

from __future__ import annotations

from router.cloud.calls import CloudAnswer, CloudCall


def test_neither_prompt_nor_answer_is_in_a_repr() -> None:
    call = CloudCall("chat/completions", {"messages": "canary"})
    assert "canary" not in repr(call)
    assert "canary" not in repr(CloudAnswer(200, "big", 0, body=b"canary"))
