from __future__ import annotations

import pytest

from router.registry.document import MAX_BYTES, DocumentInvalid, Position, dotted, parse


def faults(text: str | bytes) -> list[str]:
    """Every problem of the text, whether it has a tree or not."""
    data = text if isinstance(text, bytes) else text.encode()
    try:
        return [problem.line("f") for problem in parse(data).problems]
    except DocumentInvalid as error:
        return [problem.line("f") for problem in error.problems]


def test_every_key_and_value_has_its_position() -> None:
    document = parse(b"a: 1\nb:\n  c: [x, {d: e}]\n")
    assert document.value == {"a": 1, "b": {"c": ["x", {"d": "e"}]}}
    assert document.key("b", "c") == Position(3, 3)
    assert document.at("b", "c") == Position(3, 6)
    assert document.at("b", "c", 1, "d") == Position(3, 14)
    assert ("b", "c", 1, "d") in document
    assert ("b", "x") not in document


def test_what_is_not_there_stands_where_its_parent_does() -> None:
    document = parse(b"a: 1\nb:\n  c: 2\n")
    assert document.key("b", "missing") == Position(2, 1)
    assert document.at("b", "c", "deeper") == Position(3, 3)
    assert document.at("nowhere") == Position(1, 1)


def test_columns_count_characters_and_a_byte_order_mark_is_none() -> None:
    assert parse("\ufeffä: ö".encode()).at("ä") == Position(1, 4)


def test_json_is_a_registry_too() -> None:
    assert parse(b'{"a": [1, 2.5, true, "x"], "b": {"c": -1e-3}}').value == {
        "a": [1, 2.5, True, "x"],
        "b": {"c": -0.001},
    }


def test_a_quoted_word_is_text_and_nothing_else() -> None:
    text = b"a: 'no'\nb: \"017\"\nc: '1'\nd: |\n  yes\n'no': 1\n"
    assert parse(text).value == {"a": "no", "b": "017", "c": "1", "d": "yes\n", "no": 1}
    assert not parse(text).problems


def test_on_and_off_are_words_only_where_the_caller_says_so() -> None:
    assert parse(b"switch: on", frozenset({"switch"})).value == {"switch": "on"}
    assert parse(b"switch: on", frozenset({"switch"})).problems == ()
    assert parse(b"switch: on").problems


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3", "f:3:1: a: this key is already set in line 1"),
        ("a: {b: 1, b: {c: [2]}}", "f:1:11: a.b: this key is already set in line 1"),
        ("a: &x 1", "f:1:4: a: anchors"),
        ("a: &x [1]", "f:1:4: a: anchors"),
        ("a: *x", "f:1:4: a: aliases"),
        ("*x : 1", "f:1:1: aliases"),
        ("a: !!str 1", "f:1:4: a: tags"),
        ("a: ! 1", "f:1:4: a: tags"),
        ("a: !x {b: 1}", "f:1:4: a: tags"),
        ("!x a: 1", "f:1:1: a: tags"),
        ("a: 1\n<<: {b: 1}", "f:2:1: merge keys"),
        ("a: no", "f:1:4: a: no unquoted is a truth value"),
        ("a: [1, on]", "f:1:8: a[1]: on unquoted"),
        ("no: 1", "f:1:1: no: no unquoted"),
        ("a:\n  b: 10:30", "f:2:6: a.b: 10:30 unquoted is ambiguous"),
        ("a: 017", "f:1:4: a: 017 unquoted"),
        ("a: 1_000", "f:1:4: a: 1_000 unquoted"),
        ("4090: 1", "f:1:1: the key 4090 is not text"),
        ("true: 1", "f:1:1: the key true is not text"),
        ("a:", "f:1:3: a: there is no value"),
        ("a: [1, ~]", "f:1:8: a[1]: there is no value"),
        ("? [a]\n: 1", "f:1:3: expected a plain key"),
        ("", "f:1:1: the file is empty"),
        ("# only a comment\n", "f:1:1: the file is empty"),
        ("- a\n- b", "f:1:1: expected a mapping"),
        ("just words", "f:1:1: expected a mapping"),
        ("a: 1\n---\nb: 2", "f:2:1: a second document"),
        ("%YAML 1.1\n---\na: 1", "f:1:1: directives"),
        ("a:\n\tb: 1", "f:2:2: a tab indents this line"),
        ("a: 1\x00", "f:1:5: the invisible character U+0000"),
        ("a: 1\n b\u2028", "f:2:3: the invisible character U+2028"),
        ("a: 1\rb: 2", "f:1:5: the invisible character U+000D"),
        ("a: [1, 2", "f:2:1: YAML syntax"),
        ("version: 1\n  models: [\n", "f:2:9: YAML syntax: mapping values are not allowed"),
        ("a: 'x", "YAML syntax: found unexpected end of stream"),
        ("a: @x", "f:1:4: YAML syntax"),
        ('a: "\\ud800"', "YAML syntax"),
        ("a: " + "[" * 60 + "]" * 60, "f:1:54: a[0][0]: more than 50 levels"),
        ("a:\n" + "- x\n" * 100_001, "more than 100000 values"),
    ],
)
def test_each_trick_is_an_error_with_its_place(text: str, expected: str) -> None:
    assert any(expected in line for line in faults(text)), faults(text)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a: \xff", "f:1:4: not UTF-8 text"),
        ("a: 1".encode("utf-16"), "f:1:1: not UTF-8 text"),
        (b"a: 1\n" + b"#" * MAX_BYTES, "f:1:1: the file is over 1 MiB"),
    ],
)
def test_bytes_that_are_no_text_of_ours_are_refused(data: bytes, expected: str) -> None:
    assert expected in faults(data)[0]


def test_tabs_beside_values_and_windows_line_ends_do_no_harm() -> None:
    assert parse(b"a: 1\t# note\r\nb:\tx\r\n").value == {"a": 1, "b": "x"}


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    found = faults("a: no\nb: 017\na: 1\nc: &x z\n")
    assert [line.split(":")[1] for line in found] == ["1", "2", "3", "4"]


def test_a_flood_of_faults_is_answered_in_bounded_words() -> None:
    assert len(faults(b"\x00" * MAX_BYTES)) == 10
    assert len(faults("{" * 100_000)) == 1


def test_paths_read_like_the_file() -> None:
    assert dotted(("models", "a", "params", "stop", 0)) == "models.a.params.stop[0]"
    assert dotted(()) == ""
