"""Embeddings of a model that was made to generate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from router.domain.errors import ContextOverflow
from router.domain.generation import EmbeddingRequest, GenerationRequest, SamplingParams, TextPrompt
from router.engine.engine import EmbeddingDone, Engine
from tests.models.engine_scene import embed, one, open_engine

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def engine(smollm2: Path) -> Iterator[Engine]:
    engine = open_engine(smollm2)
    yield engine
    engine.close()


def test_an_embedding_is_the_mean_of_the_token_embeddings_at_unit_length(demo_models: dict[str, Path]):
    from llama_cpp import LLAMA_POOLING_TYPE_NONE, Llama

    text = "The quick brown fox jumps over the lazy dog. " * 8  # Longer than one step.
    options = {"n_ctx": 512, "embedding": True, "pooling_type": LLAMA_POOLING_TYPE_NONE, "flash_attn": True}
    engine = open_engine(demo_models["f16"], slots=1, ubatch=32)
    reference = Llama(str(demo_models["f16"]), n_ubatch=32, **options, verbose=False)
    mean = np.mean(reference.embed(text), axis=0)
    reference.close()
    vector = embed(engine, text)[0]
    engine.close()
    assert vector == pytest.approx(mean / np.linalg.norm(mean), abs=1e-4)


def test_related_sentences_are_nearer_than_unrelated_ones(engine: Engine):
    cat, kitten, tax = embed(
        engine,
        "A cat sleeps on the sofa.",
        "A kitten naps on the couch.",
        "The parliament passed a new tax law in 1998.",
    )
    assert cat @ kitten > cat @ tax
    assert np.linalg.norm(cat) == pytest.approx(1, abs=1e-5)


def test_each_input_is_embedded_as_if_it_were_alone(engine: Engine):
    together = embed(engine, "red", "a much longer sentence about a green tree", "blue")
    alone = [embed(engine, text)[0] for text in ("red", "a much longer sentence about a green tree", "blue")]
    assert together == pytest.approx(np.array(alone), abs=1e-5)


def test_a_text_and_its_tokens_have_the_same_embedding(engine: Engine):
    tokens = tuple(engine.prepare_embedding(EmbeddingRequest("e", ("hello world",))).inputs[0].tolist())
    by_text, by_tokens = embed(engine, "hello world", tokens)
    assert by_text == pytest.approx(by_tokens, abs=1e-6)


def test_embedding_beside_a_running_answer_changes_neither(demo_models: dict[str, Path]):
    engine = open_engine(demo_models["f16"], slots=2)
    prompt, sampling = TextPrompt("Once upon a time"), SamplingParams(temperature=0.0, max_tokens=16)
    expected, _ = one(engine, prompt, temperature=0.0, max_tokens=16)
    vector = embed(engine, "The quick brown fox")[0]
    engine.add(engine.prepare(GenerationRequest("a", prompt, sampling)))
    engine.add(engine.prepare_embedding(EmbeddingRequest("e", ("The quick brown fox",) * 6)))
    text, vectors = "", ()
    while engine.busy:
        for output in engine.step():
            if isinstance(output, EmbeddingDone):
                vectors = output.embeddings.vectors
            else:
                text += output.delta.text
    engine.close()
    assert text == expected
    assert len(vectors) == 6
    for each in vectors:
        assert np.frombuffer(each, "<f4") == pytest.approx(vector, abs=1e-4)


def test_an_input_longer_than_the_context_is_refused(engine: Engine):
    with pytest.raises(ContextOverflow):
        engine.prepare_embedding(EmbeddingRequest("e", ("short", "word " * 600)))
