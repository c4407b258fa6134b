"""
No test fails because the machine is busy, and none waits for long.

The one rule: a wall clock is compared only by a guard against hanging, which says in its message what hung. How fast
something is belongs into a benchmark; that something did not wait is asserted by what happened, or in virtual time.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
WALL_CLOCKS = {"monotonic", "perf_counter", "time"}
LONGEST_SLEEP = 1.0
"""Seconds that a test of real time may say; a test of virtual time may say any."""
FOR_EVER = 120.0
"""A test is ended after so long: who says more means what is cancelled, or never comes."""


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Name of the attribute or function, and the call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            match node.func:
                case ast.Attribute(attr=name) | ast.Name(id=name):
                    yield name, node


def speeds(source: str) -> list[int]:
    """Lines of asserts that fail when a wall clock has gone too far, and say no word of what hung."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assert) and node.msg is None and isinstance(node.test, ast.Compare):
            bounded = any(isinstance(op, ast.Lt | ast.LtE) for op in node.test.ops)
            if bounded and WALL_CLOCKS & {name for name, _ in calls(node.test)}:
                found.append(node.lineno)
    return found


def sleeps(source: str) -> list[int]:
    """Lines of tests of real time that sleep for long."""
    found = []
    for test in ast.walk(ast.parse(source)):
        if isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef) and test.name.startswith("test_"):
            if any(
                isinstance(mark, ast.Name) and mark.id == "in_virtual_time" for mark in test.decorator_list
            ):
                continue
            for name, call in calls(test):
                match name, call.args:
                    case "sleep", [ast.Constant(value=int() | float() as seconds)] if (
                        LONGEST_SLEEP < seconds < FOR_EVER
                    ):
                        found.append(call.lineno)
    return found


FILES = sorted(path for path in TESTS.rglob("test_*.py") if path.name != "test_clocks.py")


@pytest.mark.parametrize("rule", [speeds, sleeps])
def test_no_test_depends_on_how_fast_the_machine_is(rule) -> None:  # type: ignore[no-untyped-def]
    found = [f"{path.relative_to(TESTS)}:{line}" for path in FILES for line in rule(path.read_text())]
    assert found == []


def test_the_rules_find_what_they_are_for() -> None:
    speed = "began = time.monotonic()\nassert time.monotonic() - began < 0.5"
    assert speeds(speed) == [2]
    assert speeds(speed + ', "it hangs"') == []
    assert speeds("assert loop.time() - began >= 0.2") == []
    slow = "async def test_x():\n    await asyncio.sleep(3)"
    assert sleeps(slow) == [2]
    assert sleeps(slow.replace("3", "3600")) == []
    assert sleeps(f"@in_virtual_time\n{slow}") == []
