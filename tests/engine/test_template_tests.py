from __future__ import annotations

import pytest
from jinja2 import defaults

from router.domain.errors import InvalidRequest
from router.engine.template_tests import TESTS
from tests.engine.templates import ARGUMENTS, LARGE, NESTED, overruns, render

OPERATORS = ("==", "!=", "<", "<=", ">", ">=", "in", "not in")


@pytest.mark.parametrize("name", sorted(set(defaults.DEFAULT_TESTS) - set(TESTS)))
def test_a_test_of_jinja_that_is_not_in_the_table_is_refused(name):
    with pytest.raises(InvalidRequest, match=f"No test named '{name}'"):
        render("{{ 'a' is NAME }}".replace("NAME", name))


@pytest.mark.parametrize("name", sorted(name for name in TESTS if name.isalpha()))
def test_no_test_takes_longer_than_it_is_charged_for(name):
    asked = [f"({value}) is {name}({arguments})" for value in LARGE for arguments in ARGUMENTS]
    assert overruns(asked + [f"[{value}] | select('{name}') | list" for value in LARGE]) == []


@pytest.mark.parametrize("operator", OPERATORS)
def test_no_comparison_takes_longer_than_it_is_charged_for(operator):
    assert (
        overruns(f"({left}) {operator} ({right})" for left in LARGE for right in (*LARGE, "[nested]")) == []
    )


@pytest.mark.parametrize(
    "expression",
    [
        "nested == other",
        "nested < other",
        "other in [nested]",
        "nested is eq other",
        "mapped.values() == {'a': other}.values()",
        "{(nested,): 1}",
        "{'a': 1}[(nested,)]",
        "[nested, other] | unique",
        "[nested, other] | sort",
        "[[1, nested], [1, other]] | max",
        "cycler(nested) == other",
    ],
)
def test_shared_lists_in_lists_are_not_read_to_their_end(expression):
    other = NESTED.replace("nested", "other").replace("ns", "no").replace("mapped", "mupped")
    source = NESTED + other + "{% for i in [1] %}{{ loop.changed(nested) }}{% endfor %}{{ EXPRESSION }}"
    with pytest.raises(InvalidRequest, match=r"too many steps|kind|too much"):
        render(source.replace("EXPRESSION", expression))


@pytest.mark.parametrize(
    ("expression", "truth"),
    [
        ("1 < 2 <= 2 != 3", True),
        ("1 < 2 > 2", False),
        ("'a' in 'cat' and 'x' not in 'cat'", True),
        ("'role' in messages[0] and 'x' not in messages[0]", True),
        ("messages[0] in messages", True),
        ("2 in range(3) and 2 in [1, 2] and 2 not in (1,)", True),
        ("'user' in messages | map(attribute='role')", True),
        ("'a' in messages[0].values() or 'system' in messages[0].values()", True),
        ("'a' in nothing", False),
        ("messages == messages[:] and messages != messages[1:]", True),
        ("'a' < 'b' and [1, 2] > [1]", True),
        ("nothing is undefined and messages is defined and nothing is not defined", True),
        ("none is none and true is true and false is false and 1 is not boolean", True),
        ("'a' is string and 1 is number and 1 is integer and 1.0 is float and true is boolean", True),
        ("{} is mapping and [] is sequence and 'a' is iterable and 1 is not iterable", True),
        ("messages[0].get is callable and 'ab' is lower and 'AB' is upper", True),
        ("3 is odd and 2 is even and 9 is divisibleby(3) and 9 is divisibleby 3", True),
        ("messages[0] is sameas messages[0] and 1 is in([1]) and 1 is eq(1) and 1 is ne 2", True),
        ("1 is lt(2) and 2 is ge(2) and 3 is greaterthan(2) and 2 is le 2", True),
    ],
)
def test_a_test_does_what_jinja_says(expression, truth):
    assert render("{{ true if EXPRESSION else false }}".replace("EXPRESSION", expression)) == str(truth)
