from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.registry.quantities import Share, budget, duration, size, ttl, wait


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9GiB", 9 * 2**30),
        ("800MB", 800_000_000),
        ("1.5 KiB", 1536),
        ("12B", 12),
        (2**20, 2**20),
        (8589934592, 8589934592),
    ],
)
def test_sizes_are_bytes(text: object, expected: int) -> None:
    assert size(text) == expected
    assert budget(text) == expected


def test_a_budget_may_be_a_share() -> None:
    assert budget("80%") == Share(0.8)
    assert budget("12.5%") == Share(0.125)


@pytest.mark.parametrize(
    "text", ["0%", "101%", "-5%", "9G", "9gib", "GiB", "", "0B", 0, -1, True, 1.5, None, "9e9GiB", "80"]
)
def test_other_budgets_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        budget(text)


def test_absurd_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        size(10**30)
    with pytest.raises(ValueError, match="at most"):
        size("999999999TiB")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200), ("500ms", 0.5), ("1d", 86400), ("0s", 0)]
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert duration(text) == seconds


def test_a_duration_without_a_unit_is_refused_with_the_likely_meaning() -> None:
    with pytest.raises(ValueError, match=r"\(write 90s\)"):
        duration(90)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (80, "80 bytes? write 80% or 80GiB"),
        (8192, "8192 bytes? write 8192MiB"),
        (0.8, "(write 80%)"),
        ("80", "(write 80% or 80GiB)"),
        ("9G", "(write 9GiB or 9GB)"),
    ],
)
def test_a_budget_that_was_never_meant_is_refused_with_what_may_have_been(value: object, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        budget(value)


def test_a_few_bytes_that_are_written_as_such_are_taken() -> None:
    assert budget("80B") == 80
    assert size("1KiB") == 1024


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-1, "(write never: it stays until its memory is needed)"),
        ("-1s", "(write never"),
        (0, "(write 0s: it is unloaded after each request)"),
        (600, "(write 600s); or never"),
    ],
)
def test_a_ttl_that_was_not_understood_says_what_to_write(value: object, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        ttl(value)


def test_a_wait_is_long_enough_and_its_hint_is_too() -> None:
    assert wait("100ms") == 0.1
    with pytest.raises(ValueError, match="at least 100ms"):
        wait("0s")
    with pytest.raises(ValueError, match=r"10m or 2h$"):
        wait(0)


Reader = Callable[[object], object]
VALUES = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.text(max_size=12),
    st.from_regex(r"-?[0-9]{1,12}(\.[0-9]{1,3})? ?([kKmMgGtT]?i?[bB]?|%|ms|s|m|h|d)", fullmatch=True),
)


@given(VALUES, st.sampled_from([budget, size, duration, wait, ttl]))
def test_whatever_a_message_says_to_write_is_accepted(value: object, read: Reader) -> None:
    try:
        read(value)
    except ValueError as error:
        for text in hints(str(error)):
            read(text)


def hints(message: str) -> list[str]:
    found = re.search(r"write ([^):]+)", message)
    return found[1].split(" or ") if found else []


@pytest.mark.parametrize("text", ["never", "1 hour", "-1s", "1h30m", True, "", "10:30", "400d"])
def test_other_durations_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        duration(text)
