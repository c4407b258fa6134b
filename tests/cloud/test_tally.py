"""What passes is counted, never too high."""

from __future__ import annotations

import pytest

from router.cloud.events import Facts
from router.cloud.tally import Tally
from router.domain.generation import Usage


def piece(text: str, index: int = 0, finish: bool = False) -> Facts:
    ended = (index,) if finish else ()
    return Facts(choices=1, words=len(text), spoke=(index,) if text else (), ended=ended)


def test_pieces_count_as_tokens_unless_they_are_single_letters() -> None:
    words, letters = Tally(), Tally()
    for _ in range(100):
        words.note(piece("word "))
        letters.note(piece("w"))
    assert (words.at_least, letters.at_least) == (100, 25)


def test_a_large_piece_counts_by_its_bytes_as_few_tokens_as_it_can_have() -> None:
    tally = Tally()
    tally.note(piece("=" * 6400))
    assert tally.at_least == 100


def test_what_is_echoed_of_the_prompt_is_no_answer() -> None:
    tally = Tally(limit=1, echoed=10_000)
    tally.note(piece("x" * 9_000))
    assert (tally.at_least, tally.passed_limit) == (0, False)


@pytest.mark.parametrize(("limit", "slack"), [(10, 64), (1000, 250)])
def test_an_answer_may_pass_its_limit_by_a_little(limit: int, slack: int) -> None:
    tally = Tally(limit)
    for _ in range(limit + slack):
        tally.note(piece("word"))
    assert not tally.passed_limit
    tally.note(piece("word"))
    assert tally.passed_limit


def test_without_a_limit_nothing_passes_it() -> None:
    tally = Tally()
    tally.note(Facts(Usage(1, 10**9)))
    assert not tally.passed_limit


def test_a_usage_may_pass_the_limit_too_but_not_once_all_is_said() -> None:
    tally = Tally(10)
    tally.note(Facts(Usage(1, 1000), choices=1))
    assert tally.passed_limit
    tally.note(piece("", finish=True))
    assert not tally.passed_limit


@pytest.mark.parametrize(("index", "finish"), [(0, True), (1, True), (1, False), (-1, True), (7, False)])
def test_no_end_excuses_words_that_came(index: int, finish: bool) -> None:
    tally = Tally(10)
    tally.note(piece("", finish=True))
    for _ in range(10 + 64 + 1):
        assert not tally.passed_limit
        tally.note(piece("word", index, finish))
    assert tally.passed_limit


def test_every_answer_must_end_and_one_that_goes_on_has_not() -> None:
    tally = Tally(answers=2)
    tally.note(piece("", 0, finish=True))
    assert not tally.finished
    tally.note(piece("", 1, finish=True))
    assert tally.finished
    tally.note(piece("more", 0))
    assert not tally.finished
    tally.note(piece("more", 0, finish=True))
    assert tally.finished


@pytest.mark.parametrize("index", [-1, 2, 10**9])
def test_the_end_of_an_answer_that_nobody_asked_for_is_none(index: int) -> None:
    tally = Tally(answers=2)
    tally.note(piece("", 0, finish=True))
    assert not tally.note(piece("", index, finish=True))
    assert not tally.finished


def test_only_words_and_new_ends_are_news() -> None:
    tally = Tally()
    news = [piece("a"), piece(""), Facts(), Facts(Usage(1, 1)), piece("", 0, True), piece("", 0, True)]
    assert [tally.note(facts) for facts in news] == [True, False, False, False, True, False]


def test_an_image_is_news_until_all_is_said_and_has_no_tokens() -> None:
    tally, image = Tally(limit=1), Facts(choices=1, anything=True)
    assert tally.note(image)
    tally.note(piece("", finish=True))
    assert not tally.note(image)
    assert (tally.at_least, tally.finished) == (0, True)


def test_of_several_usages_the_largest_numbers_count() -> None:
    tally = Tally()
    for usage in (Usage(10, 130_050, 1), Usage(12, 11, 3)):
        tally.note(Facts(usage))
    assert tally.told == Usage(12, 130_050, 3)


def test_a_usage_is_the_bill_while_no_word_follows_it() -> None:
    tally = Tally()
    tally.note(Facts(Usage(1, 1), choices=1, words=1, spoke=(0,), ended=(0,)))
    assert (tally.current, tally.last_word) == (True, False)
    tally.note(Facts(Usage(1, 1)))
    assert (tally.current, tally.last_word) == (True, True)
    tally.note(piece("more"))
    assert (tally.current, tally.last_word) == (False, False)
