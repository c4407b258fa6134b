"""
A client's body on its way to an upstream.

The one rule: what goes on is our own parse of the body, never its bytes, and nothing of the client's headers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from router.api import wire
from router.api.house import Record
from router.api.wire import ENDLESS, Body, SamplingBody
from router.cloud.calls import CloudCall, Path
from router.domain.errors import InvalidRequest

_LIMITS = ("max_completion_tokens", "max_tokens")
"""The first that is said holds; then `n_predict`."""


def passed_on(path: Path, raw: bytes, body: Body, record: Record) -> Callable[[], CloudCall]:
    """`raw` is what `body` was decoded from; it is parsed again, whole, only when somebody is called."""

    def call() -> CloudCall:
        return CloudCall(
            path,
            _as_openai(_without_ours(wire.document(raw)), body),
            stream=isinstance(body, SamplingBody) and bool(body.stream),
            max_tokens=_limit(body),
            caller=record.key.name if record.key else None,
            tenant=record.tenant,
        )

    return call


def _without_ours(body: dict[str, Any]) -> dict[str, Any]:
    """`metadata.accuracy` was said to us, and OpenAI refuses metadata of what it need not store."""
    metadata = body.get("metadata")
    if isinstance(metadata, dict) and metadata.pop("accuracy", None) is not None and not metadata:
        del body["metadata"]
    return body


def _as_openai(document: dict[str, Any], body: Body) -> dict[str, Any]:
    """llama-server's names of the limit and of the number of answers: what they cost is reckoned by OpenAI's."""
    if document.pop("n_predict", None) is not None and isinstance(body, SamplingBody):
        limit = _limit(body)
        if limit is not None and document.keys().isdisjoint(_LIMITS):
            document["max_tokens"] = limit
    answers = document.pop("n_cmpl", None)
    if answers is not None:
        document.setdefault("n", answers)
    return document


def stays() -> CloudCall:
    """For a plan without a way out: asking is a fault of ours."""
    raise RuntimeError("a request that may not leave was about to")


def _limit(body: Body) -> int | None:
    """What a request may cost hangs on it: nothing below one passes."""
    if not isinstance(body, SamplingBody):
        return None
    limits = {name: _known(name, getattr(body, name)) for name in (*_LIMITS, "n_predict")}
    return next((limit for limit in limits.values() if limit is not None), None)


def _known(name: str, limit: int | None) -> int | None:
    if limit is None or (name == "n_predict" and limit == ENDLESS):
        return None
    if limit < 1:
        raise InvalidRequest(f"'{name}' must be at least 1.", name)
    return limit
