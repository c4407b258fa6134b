"""
The tests and comparisons of a chat template, each with its cost.

The one rule: the table is complete. What is not in it is refused, whatever Jinja has besides.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.runtime import Undefined

from router.engine import template_budget as cost
from router.engine.template_budget import guarded, text
from router.engine.template_members import member

Test = Callable[..., Any]


def _whole(value: Any) -> int:
    """`'%9d' is even` would be a format."""
    if not isinstance(value, int):
        raise SecurityError("a whole number is wanted")
    return value


def _compared(operation: Test) -> Test:
    def test(left: Any, right: Any) -> Any:
        cost.compare(left, right, ordered=operation not in (operator.eq, operator.ne))
        return operation(left, right)

    return test


def compared(first: Any, others: list[Any]) -> bool:
    """`first < a == b in c`: the names of the tests and the other values in turn."""
    left, outcome = first, True
    for name, right in zip(others[::2], others[1::2], strict=True):
        outcome = not cost.contains(right, left) if name == "notin" else _TESTS[name](left, right)
        if not outcome:
            return False
        left = right
    return outcome


_TESTS: dict[str, Test] = {
    "boolean": lambda value: isinstance(value, bool),
    "callable": callable,
    "defined": lambda value: not isinstance(value, Undefined),
    "divisibleby": lambda value, number: _whole(value) % _whole(number) == 0,
    "even": lambda value: _whole(value) % 2 == 0,
    "false": lambda value: value is False,
    "float": lambda value: isinstance(value, float),
    "in": lambda value, container: cost.contains(container, value),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "iterable": lambda value: hasattr(value, "__iter__"),
    "lower": lambda value: member(text(value), "islower")(),
    "mapping": lambda value: isinstance(value, dict),
    "none": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float),
    "odd": lambda value: _whole(value) % 2 == 1,
    "sameas": lambda value, other: value is other,
    "sequence": lambda value: isinstance(value, str | list | tuple | dict | range | Undefined),
    "string": lambda value: isinstance(value, str),
    "true": lambda value: value is True,
    "undefined": lambda value: isinstance(value, Undefined),
    "upper": lambda value: member(text(value), "isupper")(),
    **dict.fromkeys(("==", "eq", "equalto"), _compared(operator.eq)),
    **dict.fromkeys(("!=", "ne"), _compared(operator.ne)),
    **dict.fromkeys(("<", "lt", "lessthan"), _compared(operator.lt)),
    **dict.fromkeys(("<=", "le"), _compared(operator.le)),
    **dict.fromkeys((">", "gt", "greaterthan"), _compared(operator.gt)),
    **dict.fromkeys((">=", "ge"), _compared(operator.ge)),
}

TESTS = {name: guarded(test) for name, test in _TESTS.items()}
