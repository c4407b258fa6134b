"""OpenAI's shapes, byte for byte where clients are picky."""

from __future__ import annotations

import json
import struct
from typing import Any

from router.api.answers import ChatWriter, TextWriter, embedding_list, model_entry, spent
from router.domain.generation import Delta, Embeddings, FinishReason, Usage
from router.domain.models import EngineOptions, FileIdentity, ModelCard
from router.residency.core import Residency
from router.residency.view import house_view
from tests.local import local_model

CHAT = ChatWriter("id-1", 5, "m")
TEXT = TextWriter("id-1", 5, "m")


def parsed(event: bytes) -> Any:
    assert event.startswith(b"data: ") and event.endswith(b"\n\n") and event.count(b"\n") == 2
    return json.loads(event[6:])


def test_a_chat_chunk_has_what_every_client_reads() -> None:
    assert parsed(CHAT.piece(Delta("a\n\nb"), 0)) == {
        "id": "id-1",
        "object": "chat.completion.chunk",
        "created": 5,
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": "a\n\nb"}, "logprobs": None, "finish_reason": None}],
    }


def test_the_first_chunk_has_the_role_and_the_last_an_empty_delta() -> None:
    assert parsed(CHAT.begin(0))["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    last = parsed(CHAT.end(FinishReason.LENGTH, 0))["choices"][0]
    assert (last["delta"], last["finish_reason"]) == ({}, "length")


def test_a_text_completion_opens_with_no_chunk() -> None:
    assert TEXT.begin(0) == b""
    assert parsed(TEXT.piece(Delta("x"), 1))["choices"] == [
        {"index": 1, "text": "x", "logprobs": None, "finish_reason": None}
    ]
    assert parsed(TEXT.usage(Usage(1, 2)))["choices"] == []


def test_usage_adds_up_and_says_what_was_cached() -> None:
    assert spent(Usage(10, 5, 8)) == {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 8},
    }


def test_a_vector_is_the_same_in_both_encodings() -> None:
    answer = Embeddings((struct.pack("<2f", 0.5, -0.5),), 2, 3)
    assert listed(answer, "float")["data"][0]["embedding"] == [0.5, -0.5]
    assert listed(answer, "base64")["data"][0]["embedding"] == "AAAAPwAAAL8="


def listed(answer: Embeddings, encoding: str) -> Any:
    return json.loads(b"".join(embedding_list(answer, "m", encoding)))


def test_a_large_embedding_answer_comes_in_pieces_that_are_one_document() -> None:
    answer = Embeddings((struct.pack("<1000f", *range(1000)),) * 100, 1000, 3)
    assert len(list(embedding_list(answer, "m", "float"))) > 10
    whole = listed(answer, "float")
    assert [entry["index"] for entry in whole["data"]] == list(range(100))
    assert whole["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert listed(Embeddings((), 0, 0), "float")["data"] == []


def test_a_model_entry_has_the_fields_of_every_reader() -> None:
    model = local_model(
        name="m",
        path="/secret/m.gguf",
        engine=EngineOptions(context=2048),
        file=FileIdentity(modified_ns=7 * 10**9),
        card=ModelCard(name="M", parameters=135, context_train=8192, file_bytes=99),
        aliases=("x",),
    )
    entry = model_entry(model, house_view(Residency({"host": 10}).tables, 0.0, {}))
    assert entry == {
        "id": "m",
        "object": "model",
        "created": 7,
        "owned_by": "router",
        "name": "m",
        "display_name": "M",
        "type": "model",
        "status": {"value": "unloaded"},
        "meta": {"n_ctx": 2048, "n_ctx_train": 8192, "n_params": 135, "size": 99},
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
        "aliases": ["x"],
        "context_length": 2048,
    }
    assert "/secret" not in str(entry)
