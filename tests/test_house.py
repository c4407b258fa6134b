"""The rules of the house that no other tool checks: sizes, mirrors, no leftovers, floors."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.cli import app
from router.registry import loader
from router.sizing.devices import Device

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "router").rglob("*.py"))
WRITTEN = [*MODULES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "deploy").glob("*.py"))]
TEXTS = [*WRITTEN, *(p for d in ("deploy", "config") for p in sorted((ROOT / d).rglob("*")) if p.is_file())]
TEXTS += [ROOT / name for name in ("Makefile", "README.md", "CHANGELOG.md", "pyproject.toml", ".ci/run")]

each_module = pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Each function of a file with its length in lines, without its docstring and decorators."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Function):
            yield node.name, length(node)


def length(node: Function) -> int:
    assert node.end_lineno is not None
    whole = node.end_lineno - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is None or first.end_lineno is None:
        return whole
    return whole - (first.end_lineno - first.lineno + 1)


def mirror(path: Path) -> Path:
    """The file that holds a module's tests."""
    inside = path.relative_to(ROOT / "router")
    return ROOT / "tests" / inside.parent / f"test_{inside.name}"


@each_module
def test_a_module_has_its_test_file(path: Path) -> None:
    if path.name not in ("__init__.py", "__main__.py"):
        assert mirror(path).is_file(), f"no {mirror(path).relative_to(ROOT)}"


@each_module
def test_a_module_says_what_lives_in_it_and_the_rule_that_keeps_it_clean(path: Path) -> None:
    if path.read_text().strip():
        assert ast.get_docstring(ast.parse(path.read_text())), "no docstring"


def test_files_stay_under_400_lines() -> None:
    lines = {str(p.relative_to(ROOT)): p.read_text().count("\n") for p in WRITTEN}
    assert {name: count for name, count in lines.items() if count >= 400} == {}


def test_no_function_is_longer_than_50_lines() -> None:
    sizes = {f"{p.relative_to(ROOT)}:{name}": size for p in WRITTEN for name, size in functions(p)}
    assert {name: size for name, size in sizes.items() if size > 50} == {}


def test_the_median_function_is_under_10_lines() -> None:
    assert statistics.median(size for path in MODULES for _, size in functions(path)) < 10


def test_nothing_is_left_to_do_later() -> None:
    left = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
    assert [str(p.relative_to(ROOT)) for p in TEXTS if left.search(p.read_text())] == []


def test_no_function_is_a_stub() -> None:
    stubs = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, Function) and is_stub(node):
                stubs.append(f"{path.relative_to(ROOT)}:{node.name}")
    assert stubs == []


def is_stub(node: Function) -> bool:
    """
    `pass`, or NotImplementedError, and nothing else.

    A function that does nothing on purpose says so in a docstring; `...` is the body of a Protocol's method.
    """
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    match body:
        case [ast.Pass()]:
            return True
        case [ast.Raise() as raised]:
            return "NotImplementedError" in ast.dump(raised)
        case _:
            return False


def test_no_test_is_skipped() -> None:
    marks = re.compile(r"mark\.(skip|skipif|xfail)\b|pytest\.(skip|xfail|importorskip)\(")
    # What the kernel lacks cannot be tested; those marks live in one file, each with its reason.
    allowed = {Path(__file__), ROOT / "tests" / "worker" / "kernel.py"}
    tests = [p for p in WRITTEN if p.is_relative_to(ROOT / "tests") and p not in allowed]
    assert [str(p.relative_to(ROOT)) for p in tests if marks.search(p.read_text())] == []


def test_no_file_names_a_place_on_one_machine() -> None:
    place = re.compile(r"(?<![\w.])/(work|root)/")
    here = Path(__file__)
    assert [str(p.relative_to(ROOT)) for p in TEXTS if p != here and place.search(p.read_text())] == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    empty = {"utils", "util", "helpers", "common", "base", "misc"}
    assert [str(p.relative_to(ROOT)) for p in WRITTEN if {p.stem, *p.relative_to(ROOT).parts} & empty] == []


def test_the_floors_of_the_house_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_registries_in_the_readme_are_ones_that_load(tmp_path: Path) -> None:
    own, split = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    card = Device("gpu0", "cuda", 24 * 2**30, 24 * 2**30)
    (tmp_path / "registry.yaml").write_text(own)
    found = loader.load(tmp_path / "registry.yaml", (card,), tmp_path)
    assert set(found.models) == {"llama-3.1-8b", "code-13b"}
    assert 0 < found.budgets["gpu0"] < card.total
    assert all("no such file" in (model.problem or "") for model in found.models.values())
    (tmp_path / "registry.yaml").write_text(split)
    found = loader.load(tmp_path / "registry.yaml", (card,), tmp_path)
    assert found.routes["smart"].candidates == ("big", "chat")
    assert found.models["contracts"].cloud == "never"


def test_the_readme_says_on_how_many_gpus_it_was_run_and_how() -> None:
    text = " ".join((ROOT / "README.md").read_text().split())
    assert "never run" not in text
    assert "Several GPUs were run on two cards: models whole on each, and one split over both." in text


def test_the_readme_names_only_verbs_and_targets_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    verbs = set(
        re.findall(r"\brouter (serve|[a-z]+)\b(?= |`|$)", "\n".join(re.findall(r"`router [^`]*`", text)))
    )
    assert verbs <= {command.callback.__name__ for command in app.registered_commands if command.callback}
    targets = set(re.findall(r"\bmake ([a-z]+)\b", text)) - {"and"}
    assert targets <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
