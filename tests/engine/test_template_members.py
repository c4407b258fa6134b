from __future__ import annotations

import pytest
from jinja2 import defaults
from jinja2.runtime import LoopContext, Macro
from jinja2.utils import Cycler, Joiner, Namespace

from router.domain.errors import InvalidRequest
from router.engine.template_members import METHODS, VALUES, functions
from tests.engine.templates import ARGUMENTS, LARGE, NESTED, overruns, render

REACHABLE = {
    "'a'": str,
    "messages": list,
    "(1, 2)": tuple,
    "messages[0]": dict,
    "1": int,
    "1.5": float,
    "true": bool,
    "none": type(None),
    "range(3)": range,
    "messages[0].items()": type({}.items()),
    "messages[0].keys()": type({}.keys()),
    "messages[0].values()": type({}.values()),
    "messages | map('upper')": type(_ for _ in ()),
    "messages[0].get": type({}.get),
    "namespace()": Namespace,
    "cycler(1)": Cycler,
    "joiner()": Joiner,
    "loop": LoopContext,
    "macro": Macro,
    "range": type,
    "namespace": type(lambda: 0),
}
"""What an expression of a template can be, and its type."""


def served(kind: type) -> set[str]:
    return {name for known, names in (*METHODS, *VALUES) if issubclass(kind, known) for name in names}


@pytest.mark.parametrize("expression", REACHABLE)
def test_no_attribute_of_a_value_is_reached_but_those_of_the_tables(expression):
    kind = REACHABLE[expression]
    known = {*dir(kind), "__globals__", "__code__", "__self__", "__wrapped__", "gi_frame", "func_globals"}
    expected = served(kind)
    for name in sorted(known - expected):
        for reach in (f"(VALUE).{name}", f"(VALUE)['{name}']", f"[VALUE] | map(attribute='{name}') | first"):
            written = reach.replace("VALUE", expression)
            source = (
                "{% macro macro() %}{% endmacro %}{% for i in [1] %}"
                "{% if (EXPRESSION) is defined %}reached{% endif %}{% endfor %}"
            )
            try:
                assert render(source.replace("EXPRESSION", written)) == "", written
            except InvalidRequest:
                continue


@pytest.mark.parametrize("name", sorted(set(defaults.DEFAULT_NAMESPACE) - set(functions(lambda: None))))
def test_a_function_of_jinja_that_is_not_in_the_table_is_not_there(name):
    with pytest.raises(InvalidRequest, match="undefined"):
        render("{{ NAME() }}".replace("NAME", name))


@pytest.mark.parametrize("kind", [str, list, tuple, dict], ids=lambda kind: kind.__name__)
def test_no_method_takes_longer_than_it_is_charged_for(kind):
    values = {str: LARGE[:3], list: ("nested", "messages"), tuple: ("(nested, 1)",), dict: ("mapped",)}[kind]
    calls = [f"({v}).{name}({a})" for v in values for name in served(kind) for a in ARGUMENTS]
    assert overruns(calls) == []


@pytest.mark.parametrize(
    "name", ["cycler", "dict", "joiner", "namespace", "range", "strftime_now", "raise_exception"]
)
def test_no_function_takes_longer_than_it_is_charged_for(name):
    assert overruns(f"{name}({arguments})" for arguments in ARGUMENTS) == []


@pytest.mark.parametrize(
    "expression",
    [
        "(1).to_bytes(999999999)",
        "1.5.hex()",
        "'a'.encode()",
        "'a'.zfill(999999999)",
        "'a'.translate({97: 'b'})",
        "messages.append(1)",
        "messages[0].update(a=1)",
        "dict.fromkeys(range(99999))",
        "range(99999).count(1)",
        "range(100001)",
        "namespace(a=nested)",
        "messages | map('upper')",
        "messages[0].items()",
        "messages[0].get",
        "self",
        "messages()",
        "'a'()",
        "loop.changed.__func__.x",
        "'{0.__class__.x}'.format(1)",
        "'{0.upper.x.y}'.format('a')",
    ],
)
def test_what_is_in_no_table_is_refused_where_it_is_written_or_called(expression):
    with pytest.raises(InvalidRequest):
        render(NESTED + "{% for i in [1] %}{{ EXPRESSION }}{% endfor %}".replace("EXPRESSION", expression))


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("' a '.strip() ~ 'xax'.strip('x') ~ 'ab'.lstrip('a')", "aab"),
        ("'a,b,c'.split(',')[1] ~ 'a b  c'.split() | length ~ 'a,b,c'.rsplit(',', 1)[0]", "b3a,b"),
        ("'a\nb'.splitlines()", "['a', 'b']"),
        ("'{} {x}'.format('a', x=2)", "a 2"),
        ("'{0[role]}'.format(messages[0])", "system"),
        ("'abc'.replace('b', 'x').upper().find('X')", "1"),
        ("'-'.join(['a', 'b']) ~ 'ab'.removeprefix('a') ~ 'a.b'.partition('.')[2]", "a-bbb"),
        ("[1, 2, 1].count(1) ~ [1, 2].index(2) ~ (1, 2).index(1)", "210"),
        ("messages[0].get('role') ~ messages[0].get('x', 7)", "system7"),
        ("dict(a=1).keys() | list ~ dict([('b', 2)]).values() | list", "['a'][2]"),
        ("range(1, 9, 3) | list", "[1, 4, 7]"),
        ("messages[0]['content'][0] ~ messages[0].content[-1] ~ 'abc'[::-1] ~ [1, 2, 3][1:]", "bdcba[2, 3]"),
        ("{'items': 1}['items'] ~ {'copy': 2}.copy", "12"),
    ],
)
def test_a_member_does_what_python_says(expression, text):
    assert render("{{ EXPRESSION }}".replace("EXPRESSION", expression)) == text


def test_what_loops_know():
    source = (
        "{% for i in 'abc' %}{{ loop.index }}{{ loop.revindex0 }}{{ loop.length }}{{ loop.cycle('x', 'y') }}"
        "{{ loop.previtem }}{{ loop.nextitem }}{{ loop.changed(i == 'b') }}{{ ';' if not loop.last }}{% endfor %}"
    )
    assert render(source) == "123xbTrue;213yacTrue;303xbTrue"


def test_a_recursive_loop_is_counted_too():
    source = (
        "{% for i in [1] recursive %}{% if loop.depth < 4 %}{{ loop(range(99999)) }}{% endif %}{% endfor %}"
    )
    with pytest.raises(InvalidRequest, match="too many steps"):
        render(source)


def test_cyclers_and_joiners_turn():
    assert (
        render("{% set c = cycler(1, 2) %}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}")
        == "121None"
    )
    assert render("{% set j = joiner('|') %}{% for i in [1, 2] %}{{ j() }}{{ i }}{% endfor %}") == "1|2"
