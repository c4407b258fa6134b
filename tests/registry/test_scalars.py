from __future__ import annotations

import pytest

from router.registry.scalars import Ambiguous, resolve, shown


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-7", -7),
        ("4096", 4096),
        ("0.7", 0.7),
        ("1e-5", 1e-5),
        ("true", True),
        ("false", False),
        ("", None),
        ("~", None),
        ("null", None),
        ("9GiB", "9GiB"),
        ("80%", "80%"),
        ("10m", "10m"),
        ("never", "never"),
        ("llama-3.1-8b", "llama-3.1-8b"),
        ("/models/a.gguf", "/models/a.gguf"),
    ],
)
def test_a_plain_word_is_what_json_would_make_of_it_else_text(text: str, value: object) -> None:
    found = resolve(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    (
        *("no", "No", "YES", "on", "off", "y", "N", "True", "FALSE"),
        *("017", "00", "-010", "0o17", "0x1F", "0b1", "1_000", "1_0.5", "10:30", "1:2:3.5", "2024-05-13"),
        *(".inf", "-.INF", ".nan", "+5", ".5", "5.", "1.e3", "=", "<<", "1e999", "9" * 40),
    ),
)
def test_a_word_that_readers_disagree_about_has_to_be_quoted(text: str) -> None:
    with pytest.raises(Ambiguous):
        resolve(text)


def test_what_stands_in_a_message_is_one_short_line() -> None:
    assert shown("a\nb\x1b[31m") == "a?b?[31m"
    assert len(shown("x" * 1000)) == 60
    assert shown(3) == "3"
