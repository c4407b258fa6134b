from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from router.engine.assembler import TextAssembler

_ALPHABET = "abé€😀\ufffd"
_TEXT = st.text(_ALPHABET, max_size=30)
_STOPS = st.lists(st.text(_ALPHABET, min_size=1, max_size=5), max_size=4)


def _naive(data: bytes, stops: list[str]) -> str:
    """The whole text at once: the stop string that is complete first cuts it; of two, the longer."""
    text = data.decode("utf-8", "replace")
    ends = [(text.index(stop) + len(stop), text.index(stop)) for stop in stops if stop in text]
    return text[: min(ends)[1]] if ends else text


def _assembled(pieces: list[bytes], stops: list[str]) -> str:
    assembler = TextAssembler(stops)
    said = ""
    for piece in pieces:
        said += assembler.feed(piece)
        if assembler.stopped:
            break
    return said + assembler.finish()


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(_TEXT, _STOPS, st.lists(st.integers(0, 1000), max_size=40))
@example("abcabd", ["abd"], [3])
@example("aab", ["ab", "a"], [1])
def test_any_tokenisation_of_any_text_gives_what_the_whole_text_gives(text, stops, cuts):
    data = text.encode()
    assert _assembled(_pieces(data, cuts), stops) == _naive(data, stops)


@given(st.binary(max_size=30), _STOPS, st.lists(st.integers(0, 1000), max_size=40))
def test_bytes_that_are_no_text_are_replaced_as_in_one_piece(data, stops, cuts):
    assert _assembled(_pieces(data, cuts), stops) == _naive(data, stops)


@given(_TEXT, _STOPS, st.lists(st.integers(0, 1000), max_size=40))
def test_what_was_said_is_never_taken_back(text, stops, cuts):
    data = text.encode()
    assembler, said = TextAssembler(stops), ""
    for piece in _pieces(data, cuts):
        said += assembler.feed(piece)
        assert _naive(data, stops).startswith(said)


def test_a_character_cut_in_two_waits_for_its_other_half():
    assembler = TextAssembler()
    assert assembler.feed("é".encode()[:1]) == ""
    assert assembler.feed("é".encode()[1:]) == "é"


def test_a_character_that_never_ends_becomes_a_replacement_character():
    assembler = TextAssembler()
    assert assembler.feed(b"a\xe2\x82") == "a"
    assert assembler.finish() == "\ufffd"


def test_the_beginning_of_a_stop_string_is_held_and_let_go_when_it_was_none():
    assembler = TextAssembler(["</s>"])
    assert assembler.feed(b"yes </") == "yes "
    assert assembler.feed(b"b>") == "</b>"
    assert not assembler.stopped


def test_nothing_comes_after_a_stop_string():
    assembler = TextAssembler(["END"])
    assert assembler.feed(b"a END b") == "a "
    assert assembler.stopped
    assert assembler.feed(b"more") == ""
    assert assembler.finish() == ""


def test_an_empty_stop_string_means_none():
    assert _assembled([b"abc"], [""]) == "abc"
