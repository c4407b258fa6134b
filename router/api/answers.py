"""
Domain answers -> OpenAI's shapes.

The one rule: no I/O; a writer says the bytes of one answer, whole or in pieces, and holds nothing else.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from router.api import sse
from router.api.wire import encode
from router.domain.generation import Delta, Embeddings, FinishReason, Usage
from router.domain.models import LocalModel
from router.residency.view import HouseView

Json = dict[str, Any]
PIECE = 32 * 2**10


@dataclass(frozen=True, slots=True)
class ChatWriter:
    """`id` is the answer's own; `created` seconds since 1970; `model` the name that we answer under."""

    id: str
    created: int
    model: str
    include_usage: bool = False

    def begin(self, index: int) -> bytes:
        return self._chunk({"role": "assistant", "content": ""}, index=index)

    def piece(self, delta: Delta, index: int) -> bytes:
        return self._chunk({"content": delta.text}, index=index)

    def end(self, finish: FinishReason, index: int) -> bytes:
        return self._chunk({}, finish.value, index=index)

    def usage(self, usage: Usage) -> bytes:
        return sse.data({**self._frame("chat.completion.chunk"), "choices": [], "usage": spent(usage)})

    def whole(self, texts: list[tuple[str, FinishReason]], usage: Usage) -> Json:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": finish.value,
            }
            for index, (text, finish) in enumerate(texts)
        ]
        return {**self._frame("chat.completion"), "choices": choices, "usage": spent(usage)}

    def _chunk(self, delta: Json, finish: str | None = None, *, index: int) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return sse.data({**self._frame("chat.completion.chunk"), "choices": [choice]})

    def _frame(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


@dataclass(frozen=True, slots=True)
class TextWriter:
    """The older /v1/completions: whole and pieces have the same shape, and there is no opening chunk."""

    id: str
    created: int
    model: str
    include_usage: bool = False

    def begin(self, index: int) -> bytes:
        return b""

    def piece(self, delta: Delta, index: int) -> bytes:
        return sse.data(self._answer([self._choice(index, delta.text, None)]))

    def end(self, finish: FinishReason, index: int) -> bytes:
        return sse.data(self._answer([self._choice(index, "", finish.value)]))

    def usage(self, usage: Usage) -> bytes:
        return sse.data({**self._answer([]), "usage": spent(usage)})

    def whole(self, texts: list[tuple[str, FinishReason]], usage: Usage) -> Json:
        choices = [self._choice(index, text, finish.value) for index, (text, finish) in enumerate(texts)]
        return {**self._answer(choices), "usage": spent(usage)}

    def _choice(self, index: int, text: str, finish: str | None) -> Json:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}

    def _answer(self, choices: list[Json]) -> Json:
        frame = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}
        return {**frame, "choices": choices}


Writer = ChatWriter | TextWriter


def spent(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def embedding_list(embeddings: Embeddings, model: str, encoding: str) -> Iterator[bytes]:
    """
    The answer in pieces of at least PIECE bytes, since it may be large.

    `encoding`: "float" (a list of numbers) or "base64" (little-endian float32).
    """
    held = b'{"object":"list","data":['
    for index, vector in enumerate(embeddings.vectors):
        shown = _vector(vector, embeddings.dimensions, encoding)
        entry = encode({"object": "embedding", "index": index, "embedding": shown})
        held += b"," + entry if index else entry
        if len(held) >= PIECE:
            yield held
            held = b""
    usage = {"prompt_tokens": embeddings.prompt_tokens, "total_tokens": embeddings.prompt_tokens}
    yield held + b'],"model":' + encode(model) + b',"usage":' + encode(usage) + b"}"


def _vector(vector: bytes, dimensions: int, encoding: str) -> str | tuple[float, ...]:
    if encoding == "base64":
        return base64.b64encode(vector).decode()
    return struct.unpack(f"<{dimensions}f", vector)


def model_entry(model: LocalModel, view: HouseView) -> Json:
    """One entry of a model list, as readers of OpenAI's, llama.cpp's and Anthropic's lists all want it."""
    return {
        "id": model.name,
        "object": "model",
        "created": model.file.modified_ns // 10**9,
        "owned_by": "router",
        "name": model.name,
        "display_name": model.card.name or model.name,
        "type": "model",
        "status": model_status(model, view),
        "meta": {
            "n_ctx": model.engine.context,
            "n_ctx_train": model.card.context_train,
            "n_params": model.card.parameters,
            "size": model.card.file_bytes,
        },
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
        "aliases": list(model.aliases),
        "context_length": model.engine.context,
    }


def model_status(model: LocalModel, view: HouseView) -> Json:
    """llama.cpp's `status`, with the reason where there is one."""
    value = view.status(model.name)
    reason = model.problem or view.failed.get(model.name)
    if value in ("loaded", "loading") or reason is None:
        return {"value": value}
    return {"value": "failed", "failed": True, "error": reason}
