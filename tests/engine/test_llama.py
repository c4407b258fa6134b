"""llama.cpp itself, on models of random weights: what they say is nonsense, how they say it is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from router.domain.errors import InvalidRequest
from router.domain.generation import GenerationRequest, SamplingParams, TextPrompt
from router.domain.models import EngineOptions
from router.engine import llama
from router.engine.batch import DecodeFailed, EngineError, ModelRefused, Work
from tests.engine import refused, tiny
from tests.models.engine_scene import chat, embed, generate, one, open_engine


@pytest.fixture
def backend(tiny_llama: Path) -> Iterator[llama.LlamaBackend]:
    backend = llama.load(str(tiny_llama), EngineOptions(context=256, slots=2, ubatch=64), lambda _: None)
    yield backend
    backend.close()


def work(slot: int, start: int, count: int) -> Work:
    return Work(slot, start, np.arange(count, dtype=np.int32) % 256)


def test_a_load_tells_what_the_model_is(backend: llama.LlamaBackend):
    facts = backend.facts
    assert (facts.context, facts.slots, facts.vocabulary) == (256, 2, 258)
    assert (facts.embedding_dimensions, facts.has_chat_template, facts.can_generate) == (
        tiny.WIDTH,
        True,
        True,
    )


def test_a_load_reports_its_progress_to_the_end(tiny_llama: Path):
    seen: list[float] = []
    llama.load(str(tiny_llama), EngineOptions(context=256, slots=1), seen.append).close()
    assert seen == sorted(seen)
    assert seen[-1] == 1


def _broken_files(tiny_llama: Path) -> dict[str, bytes]:
    good = tiny_llama.read_bytes()
    return {
        "failed to read magic": b"",
        "invalid magic": b"not a model at all",
        "version 9": good[:4] + b"\x09" + good[5:],
        "incomplete": good[:-1000],
        "unknown model architecture": good.replace(b"llama", b"lxama"),
        "failed to read key-value pairs": good[:100],
    }


def test_a_file_that_is_no_model_is_refused_with_the_cause(tiny_llama: Path, tmp_path: Path):
    for words, data in _broken_files(tiny_llama).items():
        path = tmp_path / "broken.gguf"
        path.write_bytes(data)
        with pytest.raises(EngineError, match=words):
            llama.load(str(path), EngineOptions(context=256, slots=1), lambda _: None)


def test_a_path_that_is_no_file_is_refused(tmp_path: Path):
    for path in (tmp_path, tmp_path / "missing.gguf"):
        with pytest.raises(EngineError, match="is not a file"):
            llama.load(str(path), EngineOptions(), lambda _: None)


def test_a_batch_that_llama_cpp_refuses_can_be_tried_again_in_another_form(backend: llama.LlamaBackend):
    backend.decode([work(0, 0, 10)])
    with pytest.raises(DecodeFailed):
        backend.decode([work(0, 5, 3)])  # Positions that the slot holds already.
    backend.decode([work(0, 10, 3)])


def test_what_is_kept_is_really_there(backend: llama.LlamaBackend):
    backend.decode([work(0, 0, 20)])
    assert backend.keep(0, 12) == 12
    backend.decode([work(0, 12, 4)])
    assert backend.keep(0, 16) == 16
    assert backend.keep(0, 0) == 0
    backend.decode([work(0, 0, 4)])


def test_keeping_more_than_there_is_keeps_nothing(backend: llama.LlamaBackend):
    backend.decode([work(0, 0, 10)])
    assert backend.keep(0, 11) == 0


def test_a_beginning_that_left_the_sliding_window_is_not_reused(folder: Path):
    path = tiny.gemma3(folder / "gemma3.gguf", window=16)
    backend = llama.load(str(path), EngineOptions(context=1024, slots=2, ubatch=32), lambda _: None)
    for start in range(0, 704, 32):
        backend.decode([work(0, start, 32)])
    assert backend.keep(0, 700) == 700
    assert backend.keep(0, 200) == 0
    backend.decode([work(0, 0, 32)])
    backend.close()


def test_a_sliding_window_engine_answers_the_same_after_a_rewind(folder: Path):
    engine = open_engine(tiny.gemma3(folder / "gemma3b.gguf", window=16), slots=1, ubatch=32)
    texts = [
        one(engine, TextPrompt("abc" * length), temperature=0.0, max_tokens=8, ignore_eos=True)[0]
        for length in (100, 30, 100, 100)
    ]
    engine.close()
    assert texts[0] == texts[2] == texts[3]


def test_many_sequences_come_and_go(tiny_llama: Path):
    engine = open_engine(tiny_llama, slots=3, context=256, ubatch=64)
    prompts = {str(n): TextPrompt("x" * (n * 7 % 200 + 1)) for n in range(30)}
    done = generate(engine, prompts, max_tokens=20, seed=1, ignore_eos=True)
    gauges = engine.gauges()
    engine.close()
    assert {last.usage.completion_tokens for _, last in done.values()} == {20}
    assert (gauges.slots_busy, gauges.completion_tokens) == (0, 600)


def test_more_slots_than_a_batch_has_tokens_still_fit(tiny_llama: Path):
    engine = open_engine(tiny_llama, slots=8, context=256, ubatch=2)
    done = generate(engine, {str(n): TextPrompt("abc") for n in range(8)}, max_tokens=4, ignore_eos=True)
    engine.close()
    assert len(done) == 8


def test_text_of_a_seed_does_not_depend_on_its_neighbours(tiny_llama: Path):
    engine = open_engine(tiny_llama, slots=4)
    request = {"temperature": 1.0, "max_tokens": 12, "seed": 9, "ignore_eos": True}
    alone = one(engine, TextPrompt("hello"), **request)[0]
    crowd = generate(engine, {name: TextPrompt("hello") for name in "abcd"}, **request)
    engine.close()
    assert {text for text, _ in crowd.values()} == {alone}


def test_a_chat_uses_the_template_in_the_file(tiny_llama: Path, folder: Path):
    engine = open_engine(tiny_llama)
    assert bytes(engine.prepare(GenerationRequest("a", chat("hi"))).prompt.tolist()) == b"hi"
    engine.close()
    engine = open_engine(tiny.llama(folder / "plain.gguf"))
    prompt = bytes(engine.prepare(GenerationRequest("a", chat("hi"))).prompt.tolist())
    engine.close()
    assert prompt == b"<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert not engine.facts.has_chat_template


@pytest.mark.parametrize(
    "template", ["{{ bos_token }}{{ messages[0].content }}", "{{ messages[0].content }}"]
)
def test_a_prompt_begins_exactly_once(folder: Path, template: str):
    engine = open_engine(tiny.llama(folder / "bos.gguf", template=template, adds_bos=True))
    prompt = engine.prepare(GenerationRequest("a", chat("hi"))).prompt.tolist()
    engine.close()
    assert prompt == [tiny.BEGIN, *b"hi"]


def test_a_model_that_pools_embeds_whole_inputs(tiny_bert: Path):
    engine = open_engine(tiny_bert, context=64, slots=2, ubatch=8)
    red, again, tree = embed(engine, "red green blue", "red green blue", "tree")
    engine.close()
    assert np.linalg.norm(red) == pytest.approx(1, abs=1e-5)
    assert red == pytest.approx(again, abs=1e-6)
    assert red != pytest.approx(tree, abs=1e-2)


def test_a_model_that_pools_gives_what_the_bindings_own_embedding_gives(tiny_bert: Path):
    from llama_cpp import Llama

    reference = Llama(str(tiny_bert), n_ctx=64, embedding=True, flash_attn=True, verbose=False)
    expected = np.array(reference.embed("red green tree"))
    reference.close()
    engine = open_engine(tiny_bert, context=64, slots=1)
    vector = embed(engine, "red green tree")[0]
    engine.close()
    assert vector == pytest.approx(expected / np.linalg.norm(expected), abs=1e-4)


def test_a_model_that_pools_does_not_generate(tiny_bert: Path):
    engine = open_engine(tiny_bert, context=64, slots=1)
    with pytest.raises(InvalidRequest, match="does not generate"):
        engine.prepare(GenerationRequest("a", TextPrompt("red"), SamplingParams()))
    engine.close()


def test_learnt_positions_bound_the_context(tiny_bert: Path):
    engine = open_engine(tiny_bert, context=512, slots=1)
    context = engine.facts.context
    embed(engine, (5,) * context)
    engine.close()
    assert context == 64


def test_closing_twice_is_harmless(tiny_llama: Path):
    backend = llama.load(str(tiny_llama), EngineOptions(context=256, slots=1), lambda _: None)
    backend.close()
    backend.close()


def test_the_build_names_itself():
    assert llama.build().startswith("llama-cpp-python 0.3.36")
    assert llama.gpu_offload() == llama.build().endswith(" gpu")


def test_a_dry_run_reads_a_model_without_loading_it(tiny_llama: Path):
    options = EngineOptions(context=512, slots=3, ubatch=64, gpu_layers=0, devices=("host",))
    foretold = llama.dry_run(str(tiny_llama), options)
    backend = llama.load(str(tiny_llama), options, lambda _: None)
    backend.close()
    planned, held = foretold["host"], backend.resident["host"]
    assert (planned.weights, planned.kv_cache, planned.compute) == (held.weights, held.kv_cache, held.compute)
    assert planned.kv_cache == 512 * 3 * tiny.LAYERS * 2 * (tiny.WIDTH // tiny.HEADS) * 2
    assert backend.mapped == held.weights


@pytest.mark.parametrize("kind", refused.EVERY)
def test_a_whole_file_that_llama_cpp_does_not_run_is_a_refusal(tmp_path: Path, kind: str):
    make, reason = refused.EVERY[kind]
    path = str(make(tmp_path / "m.gguf"))
    with pytest.raises(ModelRefused, match=re.escape(reason)):
        llama.dry_run(path, EngineOptions(context=256, slots=1))


def test_what_lies_in_the_machine_is_no_refusal(tiny_llama: Path, tmp_path: Path):
    with pytest.raises(EngineError, match="is not a file") as missing:
        llama.dry_run(str(tmp_path / "missing.gguf"), EngineOptions())
    with pytest.raises(EngineError, match="has no device gpu7") as device:
        llama.dry_run(str(tiny_llama), EngineOptions(devices=("gpu7",)))
    assert not any(isinstance(caught.value, ModelRefused) for caught in (missing, device))
