"""REPAIRS.md is complete: every row says what kind of fault it was, where siblings were sought, and which tests hold it."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "tests" / "REPAIRS.md").read_text()
SECTIONS = {"A": 5, "B": 2, "C": 1, "D": 1, "E": 9, "F": 7, "G": 5, "H": 2, "I": 5, "J": 9, "K": 10}
"""Section -> how many faults were reported in it."""

_ROW = re.compile(r"^### ([A-Z]\d+)\. (.+)\n((?:(?!^##).*\n?)*)", re.MULTILINE)
_ITEM = re.compile(r"^- (Kind|Siblings|Tests): ((?:.+\n?)+?)(?=^- |\Z)", re.MULTILINE)
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")

ROWS = {row: body.strip() + "\n" for row, _, body in _ROW.findall(TEXT)}


@functools.cache
def functions_of(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    return frozenset(
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def test_every_reported_fault_has_a_row() -> None:
    expected = {f"{section}{n}" for section, count in SECTIONS.items() for n in range(1, count + 1)}
    assert expected <= set(re.findall(r"^### ([A-Z]\d+)\.", TEXT, re.MULTILINE))


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_whole_and_its_tests_exist(row: str) -> None:
    items = dict(_ITEM.findall(ROWS[row]))
    assert items.keys() == {"Kind", "Siblings", "Tests"}
    assert all(len(text.split()) >= 4 for name, text in items.items() if name != "Tests")
    named = _TEST.findall(items["Tests"])
    assert named, "no test is named"
    missing = [f"{path}::{name}" for path, name in named if not is_test(ROOT / path, name)]
    assert missing == []


def is_test(path: Path, name: str) -> bool:
    return name.startswith("test_") and path.is_file() and name in functions_of(path)
