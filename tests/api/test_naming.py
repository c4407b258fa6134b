"""Names that a key has, and how those that it has not are kept from it."""

from __future__ import annotations

import json

import pytest

from router.api.naming import UNTOLD, Hidden, Names, renamed, without
from router.domain.upstreams import Upstream
from router.registry.loader import Key
from tests.local import local_model
from tests.scene import registry

M = local_model("m", aliases=("nick", "pub"))
OTHER = local_model("other")
HOUSE = registry(M, OTHER)


def names(*models: str, operator: bool = False) -> Names:
    return Names(HOUSE, Key("k", "0" * 64, models) if models else None, operator)


@pytest.mark.parametrize(
    ("key", "knows", "called"),
    [
        ((), {"m", "nick", "pub", "other", "none"}, "m"),
        (("*",), {"m", "nick", "pub", "other", "none"}, "m"),
        (("m",), {"m", "nick", "pub"}, "m"),
        (("pub",), {"pub"}, "pub"),
        (("other",), {"other"}, None),
        (("nick", "other"), {"nick", "other"}, "nick"),
    ],
)
def test_a_key_that_has_a_name_has_its_aliases_but_not_the_other_way(
    key: tuple[str, ...], knows: set[str], called: str | None
) -> None:
    mine = names(*key)
    assert {name for name in ("m", "nick", "pub", "other", "none") if mine.knows(name)} == knows
    assert mine.of("m") == called


def test_reasons_are_for_operators() -> None:
    assert names("m").reason("/srv/m.gguf is cut off") == UNTOLD
    assert names("m").reason(None) is None
    assert names("*", operator=True).reason("/srv/m.gguf is cut off") == "/srv/m.gguf is cut off"


def test_hidden_names_are_replaced_as_words_and_the_longest_first() -> None:
    hidden = Hidden({"gpt": "pub", "gpt-4": "pub"})
    assert (
        without(hidden, "gpt-4 is down; gpt, too. chatgpt is not.")
        == "pub is down; pub, too. chatgpt is not."
    )
    assert without(Hidden({"a\\1": r"\g<0>"}), "a\\1") == r"\g<0>"
    assert without(Hidden(), "gpt") == "gpt"
    assert without(Hidden({"gpt": "pub"}), "GPT, gpt-4") == "GPT, pub-4"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("The model `GPT-Large` is gone.", "The model `pub` is gone."),
        ("Use gpt-large-2024-08-06.", "Use pub."),
        ("openrouter/acme/gpt-large:free: busy", "openrouter/pub: busy"),
        ("Acme/GPT-LARGE.v2 and gpt-large", "pub and pub"),
        ("gpt-larger, mygpt-large, gpt", "pub, mygpt-large, gpt"),
    ],
)
def test_an_upstream_writes_its_names_in_its_own_way(text: str, told: str) -> None:
    hidden = Hidden()
    hidden.add(Upstream("big", "https://api.example/v1", "acme/gpt-large"), "pub")
    assert without(hidden, text) == told


def test_an_upstreams_model_that_is_called_like_a_word_hides_no_longer_words() -> None:
    assert (
        without(Hidden({}, {"chat": "pub"}), "Chat is not chatting; chat-2 is.")
        == "pub is not chatting; pub is."
    )


def test_a_relayed_answer_gets_another_model_and_keeps_the_rest() -> None:
    answer = b'{"id": "x", "model": "secret", "n": 1.50, "choices": [{"delta": {"model": "kept"}}], "model": "again"}'
    told = renamed(answer, "pub")
    assert json.loads(told) == {
        "id": "x",
        "model": "pub",
        "n": 1.5,
        "choices": [{"delta": {"model": "kept"}}],
    }
    assert b"1.50" in told
    assert renamed(b'{"usage":{}}', "pub") == b'{"usage":{}}'
