from __future__ import annotations

import pytest
from jinja2 import defaults

from router.domain.errors import InvalidRequest
from router.domain.generation import Message
from router.engine.template_filters import FILTERS
from tests.engine.templates import ARGUMENTS, LARGE, overruns, render


@pytest.mark.parametrize("name", sorted(set(defaults.DEFAULT_FILTERS) - set(FILTERS)))
def test_a_filter_of_jinja_that_is_not_in_the_table_is_refused(name):
    with pytest.raises(InvalidRequest, match=f"No filter named '{name}'"):
        render("{{ 'a' | NAME }}".replace("NAME", name))


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_no_filter_takes_longer_than_it_is_charged_for(name):
    filters = [f"({value}) | {name}({arguments})" for value in LARGE for arguments in ARGUMENTS]
    mapped = [f"[{value}] | map('{name}') | list" for value in LARGE]
    assert overruns(filters + mapped) == []


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("-3 | abs", "3"),
        ("'aB c' | capitalize", "Ab c"),
        ("messages | count", "2"),
        ("nothing | d('x')", "x"),
        ("'' | default('x', true)", "x"),
        ("{'b': 1, 'A': 2} | dictsort", "[('A', 2), ('b', 1)]"),
        ("{'b': 1, 'a': 2} | dictsort(by='value', reverse=true)", "[('a', 2), ('b', 1)]"),
        ("'<a>' | e", "&lt;a&gt;"),
        ("messages | first | items | list", "[('role', 'system'), ('content', 'be kind')]"),
        ("nothing | items | list", "[]"),
        ("' 2.5 ' | float", "2.5"),
        ("'x' | float(7)", "7"),
        ("'a\nb' | indent(2)", "a\n  b"),
        ("'42' | int", "42"),
        ("'4.9' | int", "4"),
        ("'x' | int(3)", "3"),
        ("'ff' | int(base=16)", "255"),
        ("[1, 'a', none] | join('-')", "1-a-None"),
        ("messages | join(', ', attribute='role')", "system, user"),
        ("[1, 2] | last", "2"),
        ("range(3) | list", "[0, 1, 2]"),
        ("messages | map(attribute='content') | map('upper') | list", "['BE KIND', 'HI']"),
        ("[3, 1, 2] | max", "3"),
        ("['b', 'A'] | min", "A"),
        ("[] | min", ""),
        ("range(5) | reject('odd') | list", "[0, 2, 4]"),
        ("messages | rejectattr('role', 'equalto', 'user') | list | length", "1"),
        ("'abab' | replace('a', 'x', 1)", "xbab"),
        ("'abc' | reverse", "cba"),
        ("[1, 2] | reverse | list", "[2, 1]"),
        ("2.567 | round(1)", "2.6"),
        ("2.1 | round(method='ceil') | int", "3"),
        ("'<a>' | safe", "<a>"),
        ("[0, 1, '', 'a'] | select | list", "[1, 'a']"),
        ("messages | selectattr('role', 'in', ['user']) | map(attribute='content') | first", "hi"),
        ("['b', 'C', 'a'] | sort", "['a', 'b', 'C']"),
        ("messages | sort(attribute='content', reverse=true) | map(attribute='role') | join", "usersystem"),
        ("[1, 2.5] | sum", "3.5"),
        ("12 | string ~ 'x'", "12x"),
        ("'hello my-world' | title", "Hello My-World"),
        ("' a ' | trim ~ 'xax' | trim('x')", "aa"),
        ("'a quick brown fox' | truncate(10, leeway=0)", "a..."),
        ("['a', 'A', 'b'] | unique | join", "ab"),
        ("'a b/é' | urlencode", "a%20b/%C3%A9"),
        ("'two words' | wordcount", "2"),
        ("{'b': [1, 'é'], 'a': none} | tojson", '{"b": [1, "é"], "a": null}'),
        ("{'b': 1, 'a': 'é'} | tojson(ensure_ascii=true, separators=(',', ':'), sort_keys=true)", '{"a":"\\u00e9","b":1}'),
    ],
)  # fmt: skip
def test_a_filter_does_what_jinja_says(expression, text):
    assert render("{{ EXPRESSION }}".replace("EXPRESSION", expression)) == text


def test_the_length_of_a_list_is_one_step_and_not_its_text():
    turns = "{% for i in range(2000) %}{{ messages | length }}{{ messages | last is mapping }}{% endfor %}"
    assert render(turns, [Message("user", "a" * 100_000)] * 100).startswith("100True100")
