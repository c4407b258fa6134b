from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.engine.pieces import LONG_RUN, SHORT_RUN, Cutter


def cut(text: str, run: int = LONG_RUN, specials: tuple[str, ...] = ()) -> list[str]:
    return list(Cutter(lambda: specials).pieces(text, run))


@pytest.mark.parametrize("text", ["", "a", "word " * 10_000, "a" * 4095, ("a" * 2000 + " ") * 100])
def test_a_text_without_a_long_run_is_whole(text):
    assert cut(text) == ([text] if text else [])


@pytest.mark.parametrize("letter", ["a", "=", " ", "\n", "中"])
def test_a_long_run_is_cut(letter):
    assert [len(piece) for piece in cut(letter * 10_000)] == [4096, 4096, 1808]


@given(st.lists(st.tuples(st.sampled_from(["a", " ", "é\n", "ab "]), st.integers(1, 700)), max_size=12))
def test_the_pieces_are_the_text_and_no_run_is_longer_than_two(parts):
    text = "".join(letters * count for letters, count in parts)
    pieces = cut(text, SHORT_RUN)
    assert "".join(pieces) == text
    runs = [run for piece in pieces for run in re.findall(r"\S+|\s+", piece)]
    assert max(map(len, runs), default=0) < 2 * SHORT_RUN


@pytest.mark.parametrize("before", range(4080, 4100))
def test_a_special_token_is_never_cut(before):
    text = "=" * before + "<|im_end|>" + "=" * 5000
    pieces = cut(text, specials=("<|im_end|>", "<|im_start|>", ""))
    assert "".join(pieces) == text
    assert sum(piece.count("<|im_end|>") for piece in pieces) == 1


def test_specials_are_asked_for_only_when_something_is_cut():
    def ask() -> tuple[str, ...]:
        raise AssertionError("asked")

    list(Cutter(ask).pieces("word " * 10_000))


def test_runs_that_end_just_before_they_are_long_take_no_quadratic_time():
    began = time.thread_time()
    cut(("\n" * 4095 + "a") * 900)
    assert (
        time.thread_time() - began < 2
    )  # a hang guard: it takes some milliseconds, a backtracking search minutes
