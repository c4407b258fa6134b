"""Strict JSON: hostile bodies are clean 400s, and every sampling field is checked by name."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.api.dialect import ChatBody
from router.api.wire import (
    Body,
    SamplingBody,
    check_tokens,
    decode,
    decode_field,
    sampling,
)
from router.domain.errors import InvalidRequest
from router.domain.generation import SamplingParams
from router.domain.models import SamplingDefaults


def asked(**fields: Any) -> SamplingParams:
    return sampling(decode(json.dumps(fields).encode(), SamplingBody), SamplingDefaults())


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        (b"", "empty", None),
        (b"  ", "empty", None),
        (b'{"model": "a", ', "not valid JSON", None),
        (b"[]", "expected object", None),
        (b'{"temperature": NaN}', "not valid JSON", None),
        (b'{"unknown": NaN}', "not valid JSON", None),
        (b'{"temperature": 1e999}', "out of range", "temperature"),
        (b'{"temperature": "hot"}', "expected float, got str", "temperature"),
        (b'{"max_tokens": ' + b"9" * 5000 + b"}", "out of range", "max_tokens"),
        (b'{"max_tokens": 1.5}', "expected int, got float", "max_tokens"),
        (b'{"max_tokens": true}', "expected int, got bool", "max_tokens"),
        (b'{"seed": 1e300}', "expected int", "seed"),
        (b'{"stop": "\\ud800"}', "not valid JSON", None),
        (b'{"stop": "\xff"}', "UTF-8", None),
        (b'{"stop": ["a", 1]}', "got int", "stop"),
        (b'{"stop": "a\x00b"}', "not valid JSON", None),
        (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply", None),
        (b'{"x": ' + b'{"y":' * 100_000, "nested too deeply", None),
        (b'{"model": "a", "model": "b"}', "more than once", "model"),
        (b'{"model": "a", "\\u006dodel": "b"}', "more than once", "model"),
        (b'{"model": "a"} {}', "not valid JSON", None),
        (b'\xef\xbb\xbf{"model": "a"}', "not valid JSON", None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_hostile_body_is_a_clean_refusal(body: bytes, message: str, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode(body, SamplingBody)
    assert message in str(refused.value)
    assert (refused.value.param or "").partition("[")[0] == (param or "")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_do_anything_but_parse_or_be_refused(body: bytes) -> None:
    try:
        decode(body, ChatBody)
    except InvalidRequest as refused:
        assert refused.message


@given(
    st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=5)
)
def test_no_value_of_any_field_does_anything_but_work_or_be_refused(value: Any) -> None:
    for field in ChatBody.__struct_fields__:
        try:
            body = decode(json.dumps({field: value}).encode(), ChatBody)
            sampling(body, SamplingDefaults())
            body.prompt()
        except InvalidRequest as refused:
            assert refused.message


@pytest.mark.parametrize(
    "body", [b"{}", b'{"model": null}', b'{"model": ""}', b'{"model": 5}', b'{"model": ["a"]}']
)
def test_a_body_without_a_usable_model_is_refused_by_name(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode(body, Body).model_name()
    assert refused.value.param == "model"


def test_unknown_fields_are_ignored() -> None:
    assert decode(b'{"model": "a", "future": {"x": [1, 2]}}', Body).model_name() == "a"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 6),
        ("top_p", 7),
        ("top_p", -1),
        ("top_k", -2),
        ("min_p", 1.1),
        ("repeat_penalty", 0),
        ("repetition_penalty", 0),
        ("repeat_last_n", -2),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("seed", 2**63),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", 10**400),
        ("max_completion_tokens", 0),
        ("n_predict", 0),
        ("n_predict", -2),
        ("stop", ["x"] * 17),
        ("stop", "x" * 1025),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"99999999999": 1}),
        ("logit_bias", {"5": 101}),
        ("logit_bias", {str(n): 1 for n in range(1025)}),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        asked(**{field: value})
    assert refused.value.param == field
    assert field in refused.value.message


def test_what_the_request_says_goes_before_the_models_params_and_those_before_ours() -> None:
    defaults = SamplingDefaults(temperature=0.2, top_k=7, stop=("###",))
    params = sampling(decode(b'{"top_k": 3}', SamplingBody), defaults)
    assert params == SamplingParams(temperature=0.2, top_k=3, stop=("###",))
    assert sampling(decode(b"{}", SamplingBody), SamplingDefaults()) == SamplingParams()


@pytest.mark.parametrize(("stop", "meant"), [("", ()), ([""], ()), ([], ()), (["a", "", "b"], ("a", "b"))])
def test_an_empty_stop_string_means_none(stop: object, meant: tuple[str, ...]) -> None:
    assert asked(stop=stop).stop == meant
    params = sampling(
        decode(json.dumps({"stop": stop}).encode(), SamplingBody), SamplingDefaults(stop=("#",))
    )
    assert params.stop == meant


@pytest.mark.parametrize(
    ("text", "half"),
    [
        (r"\ud83d", r"\ud83d"),
        (r"x\uD83Dy", r"\uD83D"),
        (r"\udc00", r"\udc00"),
        (r"\ud83d\ude00 \ud83d\n", r"\ud83d"),
        (r"\ud83d\u0041", r"\ud83d"),
        (r"\\ud83d \ude00", r"\ude00"),
    ],
)
def test_half_a_character_is_named(text: str, half: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode(b'{"stop": "' + text.encode() + b'"}', SamplingBody)
    assert f"not valid JSON: {half} is a lone surrogate" in refused.value.message
    with pytest.raises(InvalidRequest, match=r"'x' is not valid JSON: \\u.* is a lone surrogate"):
        decode_field(msgspec.Raw(b'"' + text.encode() + b'"'), str, "x")


@pytest.mark.parametrize("body", [b'{"a": "cut', rb'{"a": "\\ud83d', rb'{"a": "\ud83d\ude00', b"[1,", b"{]"])
def test_other_faults_are_not_taken_for_half_a_character(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode(body, SamplingBody)
    assert "surrogate" not in refused.value.message


def test_zero_is_a_value_and_null_is_none() -> None:
    defaults = SamplingDefaults(temperature=0.2)
    assert sampling(decode(b'{"temperature": 0}', SamplingBody), defaults).temperature == 0
    assert sampling(decode(b'{"temperature": null}', SamplingBody), defaults).temperature == 0.2


def test_every_field_arrives_where_it_belongs() -> None:
    params = asked(
        temperature=1,
        top_p=0.5,
        top_k=-1,
        min_p=0.1,
        repeat_penalty=1.1,
        repeat_last_n=10,
        presence_penalty=-1,
        frequency_penalty=1,
        seed=5,
        max_tokens=3,
        stop="x",
        logit_bias={"5": -100},
        ignore_eos=True,
    )
    assert params == SamplingParams(1.0, 0, 0.5, 0.1, 1.1, 10, -1.0, 1.0, 5, ((5, -100.0),), 3, ("x",), True)


def test_max_completion_tokens_is_max_tokens_and_large_numbers_are_kept_in_bounds() -> None:
    assert asked(max_completion_tokens=5).max_tokens == 5
    assert asked(max_tokens=9, max_completion_tokens=5).max_tokens == 5
    assert asked(max_tokens=2**62).max_tokens == 2**31 - 1


def test_a_seed_is_folded_to_what_samplers_take() -> None:
    assert asked(seed=-1).seed is None
    assert asked(seed=2**32 + 5).seed == 5
    assert asked(seed=-5).seed == 2**32 - 5


def test_an_empty_stop_string_stops_nothing() -> None:
    assert asked(stop="").stop == ()


def test_an_alias_is_the_field_unless_that_is_there_itself() -> None:
    assert asked(repetition_penalty=1.2).repeat_penalty == 1.2
    assert asked(repetition_penalty=1.2, repeat_penalty=1.1).repeat_penalty == 1.1
    assert asked(n_predict=5).max_tokens == 5
    assert asked(n_predict=5, max_tokens=3).max_tokens == 3
    assert asked(n_predict=None).max_tokens is None
    bounded = SamplingDefaults(max_tokens=7)
    assert sampling(decode(b'{"n_predict": -1}', SamplingBody), bounded).max_tokens is None
    assert asked(repeat_last_n=-1).repeat_last_n == -1


@pytest.mark.parametrize("tokens", [[], [-1], [2**31], [10**40]])
def test_numbers_that_are_no_tokens_are_refused(tokens: list[int]) -> None:
    with pytest.raises(InvalidRequest):
        check_tokens(tokens, "prompt")
    assert check_tokens([0, 5], "prompt") == (0, 5)
