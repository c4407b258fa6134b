"""Real tokens: what the engine promises must hold with llama.cpp under it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from router.domain.errors import ContextOverflow, InvalidRequest
from router.domain.generation import (
    ChatPrompt,
    FinishReason,
    GenerationRequest,
    Message,
    SamplingParams,
    TextPrompt,
    TokenPrompt,
)
from router.engine.engine import Engine
from tests.models.engine_scene import chat, generate, one, open_engine

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def engine(smollm2: Path) -> Iterator[Engine]:
    engine = open_engine(smollm2)
    yield engine
    engine.close()


def test_the_f16_model_knows_the_capital_of_france(demo_models: dict[str, Path]):
    engine = open_engine(demo_models["f16"], slots=1)
    text, last = one(engine, chat("What is the capital of France?"), temperature=0.0, max_tokens=12)
    engine.close()
    assert text == "The capital of France is Paris."
    assert last.finish_reason is FinishReason.STOP


def test_greedy_text_is_what_the_bindings_own_loop_gives(demo_models: dict[str, Path]):
    from llama_cpp import Llama

    reference = Llama(str(demo_models["f16"]), n_ctx=512, n_batch=128, flash_attn=True, verbose=False)
    expected = reference.create_completion("Once upon a time", temperature=0.0, max_tokens=12)
    reference.close()
    engine = open_engine(demo_models["f16"], slots=1)
    text, _ = one(engine, TextPrompt("Once upon a time"), temperature=0.0, max_tokens=12)
    engine.close()
    assert text == expected["choices"][0]["text"]


def test_the_same_seed_gives_the_same_text_and_another_seed_another(engine: Engine):
    texts = [one(engine, chat("Tell a story."), seed=seed, max_tokens=10)[0] for seed in (5, 5, 6)]
    assert texts[0] == texts[1] != texts[2]


def test_a_reused_beginning_gives_the_same_text_as_a_computed_one(demo_models: dict[str, Path]):
    # f16: with rounded weights, batches of other shapes round differently and may choose another word.
    engine = open_engine(demo_models["f16"], slots=1)
    prompt = chat("Name three colours and say what they remind you of.")
    first, cold = one(engine, prompt, temperature=0.0, max_tokens=16)
    again, warm = one(engine, prompt, temperature=0.0, max_tokens=16)
    engine.close()
    assert cold.usage.cached_tokens == 0
    assert warm.usage.cached_tokens == warm.usage.prompt_tokens - 1
    assert first == again


def test_answers_of_one_batch_do_not_mix(engine: Engine):
    prompts = {
        " 8": TextPrompt("1, 2, 3, 4, 5, 6, 7,"),
        " g": TextPrompt("a, b, c, d, e, f,"),
        " yes": TextPrompt("yes, yes, yes, yes, yes, yes, yes, yes,"),
    }
    for expected, (text, _) in generate(engine, prompts, temperature=0.0, max_tokens=2).items():
        assert text.startswith(expected)


def test_more_requests_than_slots_are_all_answered(engine: Engine):
    prompts = {f"{n}": TextPrompt(f"Number {n}:") for n in range(9)}
    done = generate(engine, prompts, temperature=0.0, max_tokens=3, ignore_eos=True)
    assert {last.usage.completion_tokens for _, last in done.values()} == {3}
    assert len(done) == 9


def test_a_prompt_longer_than_a_batch_is_read_in_pieces(engine: Engine):
    text = "one two three four five six seven eight nine ten " * 14
    said, last = one(engine, TextPrompt(text + "one two three four"), temperature=0.0, max_tokens=3)
    assert last.usage.prompt_tokens > 128
    assert said.split()[0] == "five"


def test_ignore_eos_goes_on_until_the_limit(engine: Engine):
    _, last = one(engine, chat("Say hi."), temperature=0.0, max_tokens=24, ignore_eos=True)
    assert (last.finish_reason, last.usage.completion_tokens) == (FinishReason.LENGTH, 24)


def test_a_stop_string_is_not_said(engine: Engine):
    text, last = one(
        engine, TextPrompt("1, 2, 3, 4, 5, 6, 7, 8,"), temperature=0.0, max_tokens=20, stop=(", 11",)
    )
    assert last.finish_reason is FinishReason.STOP
    assert text.endswith("10")


def test_a_bias_forces_a_token_through_every_filter(engine: Engine):
    token = 500
    biased = {"logit_bias": ((token, 100.0),), "max_tokens": 3, "ignore_eos": True}
    texts = {one(engine, TextPrompt("The"), **biased, temperature=t)[0] for t in (0.0, 1.0)}
    assert len(texts) == 1
    assert len(set(texts.pop().split())) == 1


def test_a_repeat_penalty_breaks_a_loop(engine: Engine):
    prompt = TextPrompt("yes, yes, yes, yes, yes, yes, yes, yes,")
    assert "yes" in one(engine, prompt, temperature=0.0, max_tokens=4)[0]
    assert "yes" not in one(engine, prompt, temperature=0.0, max_tokens=4, repeat_penalty=1.5)[0]


def test_emoji_arrive_whole(engine: Engine):
    text, _ = one(engine, TextPrompt("😀😀😀😀😀😀😀😀😀😀"), temperature=0.0, max_tokens=6)
    assert "😀" in text


def test_text_and_its_tokens_are_the_same_prompt(engine: Engine):
    sequence = engine.prepare(GenerationRequest("a", TextPrompt("Once upon a time")))
    by_text = one(engine, TextPrompt("Once upon a time"), temperature=0.0, max_tokens=8)[0]
    by_tokens = one(engine, TokenPrompt(tuple(sequence.prompt.tolist())), temperature=0.0, max_tokens=8)[0]
    assert by_text == by_tokens


def test_special_tokens_of_the_template_are_tokens_and_not_letters(engine: Engine):
    sequence = engine.prepare(
        GenerationRequest("a", ChatPrompt((Message("system", "x"), Message("user", "y"))))
    )
    starts, ends = 1, 2  # <|im_start|>, <|im_end|>
    assert sequence.prompt.tolist().count(starts) == 3
    assert sequence.prompt.tolist().count(ends) == 2


def test_a_prompt_that_does_not_fit_is_refused_with_its_length(engine: Engine):
    with pytest.raises(ContextOverflow) as error:
        engine.prepare(GenerationRequest("a", TextPrompt("word " * 600)))
    assert error.value.context == 512
    assert 600 <= error.value.prompt_tokens <= 602


def test_a_token_beyond_the_vocabulary_is_refused(engine: Engine):
    with pytest.raises(InvalidRequest, match="49152"):
        engine.prepare(GenerationRequest("a", TokenPrompt((49152,))))


@pytest.mark.parametrize("text", ["a" * 300_000, "\n" * 300_000, "\x00" * 1000, "!" * 300_000, "\ud800"])
def test_odd_texts_are_tokenised_or_refused_and_end_nothing(engine: Engine, text: str):
    try:
        assert len(engine.prepare(GenerationRequest("a", TextPrompt(text), SamplingParams())).prompt) < 512
    except ContextOverflow as error:
        assert error.prompt_tokens >= 512


def test_an_answer_ends_where_the_context_ends(smollm2: Path):
    engine = open_engine(smollm2, context=256, slots=2)
    _, last = one(engine, TextPrompt("word " * 240), temperature=0.0, ignore_eos=True)
    text, _ = one(engine, TextPrompt("Once upon a"), temperature=0.0, max_tokens=1)
    engine.close()
    assert last.finish_reason is FinishReason.LENGTH
    assert last.usage.prompt_tokens + last.usage.completion_tokens == 256
    assert text == " time"


@pytest.mark.parametrize("kv_type", ["q8_0", "q4_0"])
def test_a_quantised_cache_answers_too(smollm2: Path, kv_type: str):
    engine = open_engine(smollm2, kv_type=kv_type, slots=2)
    text, _ = one(engine, TextPrompt("1, 2, 3, 4, 5, 6, 7,"), temperature=0.0, max_tokens=2)
    engine.close()
    assert text.strip() == "8"
