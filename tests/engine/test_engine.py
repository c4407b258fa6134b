from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.domain.errors import ContextOverflow, InvalidRequest
from router.domain.generation import (
    ChatPrompt,
    EmbeddingRequest,
    FinishReason,
    GenerationRequest,
    Message,
    SamplingParams,
    TextPrompt,
    Usage,
)
from router.engine.echo import END
from router.engine.engine import EngineError, Gauges
from tests.engine.scene import Scene


def test_a_request_lives_from_prepare_to_its_last_delta():
    scene = Scene()
    scene.add("a", "hello")
    assert scene.engine.busy
    scene.run()
    assert scene.text == {"a": "hello"}
    assert scene.last["a"].finish_reason is FinishReason.STOP
    assert scene.last["a"].usage == Usage(5, 6)
    assert not scene.engine.busy


def test_a_chat_goes_through_the_template_of_the_model():
    scene = Scene()
    prompt = ChatPrompt((Message("system", "x"), Message("user", "héllo 😀")))
    scene.engine.add(scene.engine.prepare(GenerationRequest("a", prompt)))
    scene.run()
    assert scene.text == {"a": "héllo 😀"}


def test_each_delta_says_how_many_tokens_it_stands_for():
    scene = Scene()
    scene.add("a", "é!")
    deltas = []
    while scene.engine.busy:
        deltas += [output.delta for output in scene.step()]
    assert [(delta.text, delta.tokens) for delta in deltas] == [("é", 2), ("!", 1), ("", 1)]


def test_max_tokens_cuts_the_answer():
    scene = Scene()
    scene.add("a", "hello", max_tokens=3)
    scene.run()
    assert scene.text == {"a": "hel"}
    assert scene.last["a"].finish_reason is FinishReason.LENGTH


def test_max_tokens_of_exactly_the_answer_is_length_too():
    scene = Scene()
    scene.add("a", "hello", max_tokens=5)
    scene.run()
    assert (scene.text["a"], scene.last["a"].finish_reason) == ("hello", FinishReason.LENGTH)


def test_an_answer_ends_where_the_context_ends():
    scene = Scene(context=20)
    scene.add("a", "hello", ignore_eos=True, max_tokens=1000)
    scene.run()
    assert scene.last["a"].finish_reason is FinishReason.LENGTH
    assert scene.last["a"].usage.completion_tokens == 15


def test_a_stop_string_across_tokens_ends_the_answer_before_it():
    scene = Scene()
    scene.add("a", "one two three", stop=("two",))
    scene.run()
    assert (scene.text["a"], scene.last["a"].finish_reason) == ("one ", FinishReason.STOP)


def test_as_many_as_there_are_slots_run_in_one_batch_and_the_next_waits():
    scene = Scene(slots=2)
    for id in ("a", "b", "c"):
        scene.add(id, f"text of {id}")
    scene.step()
    assert scene.engine.gauges().slots_busy == 2
    assert len(scene.backend.batches[-1]) == 2
    scene.run()
    assert scene.text == {id: f"text of {id}" for id in "abc"}


def test_a_long_prompt_does_not_stop_a_running_answer():
    scene = Scene(slots=2, context=2000, ubatch=128)
    scene.add("a", "x" * 40)
    scene.step()
    scene.add("b", "y" * 1000)
    before = len(scene.text["a"])
    for _ in range(20):
        scene.step()
    assert len(scene.text["a"]) == before + 20
    assert "b" not in scene.text
    scene.run()
    assert scene.text == {"a": "x" * 40, "b": "y" * 1000}


def test_the_next_turn_of_a_chat_finds_its_beginning_in_the_slot():
    scene = Scene()
    scene.add("a", "hello")
    scene.run()
    scene.add("b", "hellohello and more")
    scene.run()
    assert scene.text["b"] == "hellohello and more"
    assert scene.last["b"].usage.cached_tokens == 10
    assert scene.engine.gauges().cached_tokens == 10


def test_the_same_prompt_again_computes_its_last_token_only():
    scene = Scene()
    for id in ("a", "b"):
        scene.add(id, "hello", max_tokens=1)
        scene.run()
    assert scene.last["b"].usage.cached_tokens == 4
    assert len(scene.backend.batches[-1][0].tokens) == 1


def test_a_request_that_reuses_nothing_begins_in_an_empty_slot():
    scene = Scene(slots=1)
    scene.add("a", "hello", max_tokens=1)
    scene.run()
    request = GenerationRequest("b", TextPrompt("hello"), SamplingParams(max_tokens=1), cache_prompt=False)
    scene.engine.add(scene.engine.prepare(request))
    scene.run()
    assert scene.last["b"].usage.cached_tokens == 0
    assert [len(work.tokens) for work in scene.backend.batches[-1]] == [5]


def test_an_overflow_says_which_of_several_inputs_it_was():
    scene = Scene(context=10)
    for inputs, param in ((("a", "b" * 11), "input[1]"), (("b" * 11,), "input")):
        with pytest.raises(ContextOverflow) as error:
            scene.engine.prepare_embedding(EmbeddingRequest("e", inputs))
        assert error.value.param == param


def test_cancel_frees_the_slot_for_who_waits():
    scene = Scene(slots=1)
    scene.add("a", "a long text")
    scene.add("b", "b")
    scene.step()
    assert scene.engine.cancel("a")
    assert not scene.engine.cancel("a")
    scene.run()
    assert scene.text["b"] == "b"
    assert "a" not in scene.last


def test_cancel_in_the_middle_of_a_prompt_keeps_what_was_read():
    scene = Scene(slots=1, context=1000, ubatch=64)
    text = "".join(map(chr, range(33, 127))) * 5
    scene.add("a", text)
    scene.step()
    scene.engine.cancel("a")
    scene.add("b", text)
    scene.run()
    assert scene.last["b"].usage.cached_tokens == 64


def test_cancel_while_waiting_leaves_no_trace():
    scene = Scene(slots=1)
    scene.add("a")
    scene.add("b")
    scene.step()
    assert scene.engine.cancel("b")
    scene.run()
    assert set(scene.last) == {"a"}


def test_a_refused_batch_breaks_only_the_sequence_at_fault():
    scene = Scene("echo:?fail=refuse:1", slots=3)
    for id in ("a", "b", "c"):
        scene.add(id, f"text of {id}")
    scene.run()
    assert scene.broken == {"b": "The echo refused a batch."}
    assert scene.text == {"a": "text of a", "c": "text of c"}
    assert scene.engine.gauges().slots_busy == 0
    assert scene.backend.cells[1] == []


def test_a_refused_embedding_breaks_alone():
    scene = Scene("echo:?fail=refuse:1", slots=2)
    scene.add("a", "hello")
    scene.embed("e", "hi")
    scene.run()
    assert (scene.text, set(scene.broken)) == ({"a": "hello"}, {"e"})


def test_a_lost_context_is_an_engine_error():
    scene = Scene("echo:?fail=raise_decode:2")
    scene.add("a")
    scene.step()
    with pytest.raises(EngineError):
        scene.step()


@pytest.mark.parametrize(
    ("prompt", "sampling"),
    [(TextPrompt(""), {}), (ChatPrompt(()), {}), (TextPrompt("a"), {"temperature": -1.0})],
)
def test_a_bad_request_is_refused_before_it_reaches_the_engine(prompt, sampling):
    scene = Scene()
    with pytest.raises(InvalidRequest):
        scene.engine.prepare(GenerationRequest("a", prompt, SamplingParams(**sampling)))
    assert not scene.engine.busy


def test_a_prompt_longer_than_the_context_says_both_numbers():
    with pytest.raises(ContextOverflow) as error:
        Scene(context=10).add("a", "x" * 50)
    assert (error.value.context, error.value.prompt_tokens) == (10, 50)


def test_a_seed_that_nobody_gave_is_drawn():
    scene = Scene()
    request = GenerationRequest("a", TextPrompt("a"), SamplingParams())
    assert scene.engine.prepare(request).seed == 1


def test_embeddings_are_unit_vectors_in_the_order_of_the_inputs():
    scene = Scene()
    scene.embed("e", "abc", (1, 2), "abc")
    scene.run()
    done = scene.embeddings["e"]
    vectors = [np.frombuffer(vector, "<f4") for vector in done.vectors]
    assert [float(np.linalg.norm(vector)) for vector in vectors] == pytest.approx([1, 1, 1])
    assert (done.dimensions, done.prompt_tokens) == (8, 8)
    assert vectors[0].tolist() == vectors[2].tolist() != vectors[1].tolist()


def test_an_input_longer_than_a_step_is_embedded_in_pieces_to_the_same_vector():
    text = "a quick brown fox jumps over the lazy dog" * 2
    vectors = []
    for ubatch in (7, 512):
        scene = Scene(ubatch=ubatch)
        scene.embed("e", text)
        scene.run()
        vectors.append(np.frombuffer(scene.embeddings["e"].vectors[0], "<f4"))
    assert vectors[0] == pytest.approx(vectors[1], abs=1e-6)


def test_embedding_takes_turns_with_answers_and_does_not_disturb_them():
    scene = Scene(slots=2)
    scene.add("a", "hello")
    scene.step()
    scene.embed("e", *("input",) * 10)
    for _ in range(4):
        scene.step()
    assert scene.text["a"] == "hel"
    scene.run()
    assert scene.text["a"] == "hello"
    assert len(scene.embeddings["e"].vectors) == 10


def test_a_cancelled_embedding_leaves_its_slot_clean():
    scene = Scene(slots=1, ubatch=2)
    scene.embed("e", "a longer input")
    scene.step()
    assert scene.engine.cancel("e")
    assert scene.backend.cells == [[]]
    scene.add("a", "a longer input")
    scene.run()
    assert scene.last["a"].usage.cached_tokens == 0


def test_embedding_nothing_is_refused():
    scene = Scene()
    for inputs in ((), ("",), ("a", ())):
        with pytest.raises(InvalidRequest):
            scene.engine.prepare_embedding(EmbeddingRequest("e", inputs))
    with pytest.raises(ContextOverflow):
        scene.embed("e", "x" * 101)


def test_a_model_that_pools_does_not_generate():
    scene = Scene("echo:?embeds=only")
    with pytest.raises(InvalidRequest, match="does not generate"):
        scene.add("a")
    scene.embed("e", "hi")
    scene.run()
    assert "e" in scene.embeddings


def test_the_gauges_add_up():
    scene = Scene()
    scene.add("a", "hello")
    scene.run()
    assert scene.engine.gauges() == Gauges(0, 10, 6, prompt_tokens=5, cached_tokens=0, completion_tokens=6)


def test_closing_drops_what_runs_and_frees_the_backend():
    scene = Scene()
    scene.add("a")
    scene.embed("e", "hi")
    scene.step()
    sampler = scene.backend.batches[0][0].sampler if scene.backend.batches else None
    scene.engine.close()
    assert scene.backend.closed
    assert sampler is None or sampler.closed
    assert not scene.engine.busy


def test_every_sampler_is_freed_when_its_sequence_ends():
    scene = Scene()
    scene.add("a", "hi")
    scene.run()
    assert all(work.sampler.closed for batch in scene.backend.batches for work in batch if work.sampler)


_LIVES = st.lists(
    st.tuples(
        st.sampled_from(["generate", "embed", "cancel", "step", "step", "step"]),
        st.text("abé", min_size=1, max_size=40),
        st.integers(1, 60),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(_LIVES, st.integers(1, 3), st.sampled_from([4, 33, 512]))
def test_whatever_comes_and_goes_every_request_gets_its_own_answer(lives, slots, ubatch):
    scene = Scene(slots=slots, ubatch=ubatch)
    texts: dict[str, tuple[str, int]] = {}
    cancelled: set[str] = set()
    for number, (kind, text, count) in enumerate(lives):
        match kind:
            case "generate":
                texts[str(number)] = text, count
                scene.add(str(number), text, max_tokens=count)
            case "embed":
                scene.embed(f"e{number}", *(text,) * (count % 3 + 1))
            case "cancel":
                candidates = [id for id in texts if id not in scene.last and id not in cancelled]
                if candidates and scene.engine.cancel(candidates[count % len(candidates)]):
                    cancelled.add(candidates[count % len(candidates)])
            case "step":
                scene.step()
    scene.run()
    assert set(scene.last) == set(texts) - cancelled
    for id, delta in scene.last.items():
        text, count = texts[id]
        data = text.encode()[:count]
        assert scene.text[id] == data.decode("utf-8", "replace")
        assert delta.usage.completion_tokens == min(count, len(text.encode()) + 1)
    assert scene.engine.gauges().slots_busy == 0
    assert END not in {token for cells in scene.backend.cells for token in cells}
