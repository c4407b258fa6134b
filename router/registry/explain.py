"""
What pydantic found wrong, in plain words and at its place in the file.

The one rule: an operator reads these lines and has never heard of pydantic.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from router.registry.document import Document, Path, Problem
from router.registry.scalars import shown
from router.registry.schema import NOT_YET, RegistryFile

_EXPECTED = {
    "int_type": "an integer",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}


def problems(document: Document, error: ValidationError) -> list[Problem]:
    """Every error once, except where the text itself was at fault already."""
    faulty = {problem.path for problem in document.problems}
    found = [_problem(document, details) for details in error.errors(include_url=False)]
    return [p for p in found if not any(p.path[: len(f)] == f for f in faulty if f)]


def _problem(document: Document, details: ErrorDetails) -> Problem:
    kind = details["type"]
    path = _path(document, details)
    if kind == "missing":
        return Problem(document.key(*path), path[:-1], f"the key {path[-1]!r} is missing")
    if kind == "extra_forbidden":
        return Problem(document.key(*path), path, _unknown(path))
    if details["loc"][-1:] == ("[key]",):
        return Problem(document.key(*path), path, _reason(details))
    return Problem(document.at(*path), path, _reason(details))


def _path(document: Document, details: ErrorDetails) -> Path:
    """The error's location without what pydantic adds to it (tags of unions, "[key]")."""
    path: Path = ()
    for part in details["loc"]:
        if (*path, part) in document:
            path = (*path, part)
    return (*path, details["loc"][-1]) if details["type"] == "missing" else path


def _reason(details: ErrorDetails) -> str:
    kind, context, value = details["type"], details.get("ctx", {}), details["input"]
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, got {_shown(value)}"
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"expected {words} {float(context[key]):.12g}, got {_shown(value)}"
    if kind == "literal_error":
        return f"expected {context['expected']}, got {_shown(value)}{_close(value, context['expected'])}"
    if kind == "plain":
        reason = str(context.get("reason", details["msg"]))
        return f"{reason}, got {_shown(value)}" if reason.startswith("expected") else reason
    return _length(details)


def _length(details: ErrorDetails) -> str:
    kind, context, value = details["type"], details.get("ctx", {}), details["input"]
    match kind:
        case "too_short":
            return f"expected at least {context['min_length']} entry, got none"
        case "too_long":
            return f"expected at most {context['max_length']} entries, got {len(value)}"
        case "string_too_short":
            return "expected text, got nothing"
        case "string_too_long":
            return f"expected at most {context['max_length']} characters, got {len(value)}"
        case _:
            return details["msg"]


def _shown(value: object) -> str:
    match value:
        case str():
            return repr(shown(value))
        case bool():
            return str(value).lower()
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case _:
            return shown(value)


def _close(value: object, expected: str) -> str:
    words = expected.replace(" or ", ", ").replace("'", "").split(", ")
    near = difflib.get_close_matches(value, words, 1) if isinstance(value, str) else []
    return f"; did you mean {near[0]!r}?" if near else ""


def _unknown(path: Path) -> str:
    key = str(path[-1])
    if key in NOT_YET:
        return NOT_YET[key]
    allowed = _allowed(path[:-1])
    near = difflib.get_close_matches(key, allowed, 3, cutoff=0.5)
    if near:
        return f"unknown key; did you mean {' or '.join(near)}?"
    return f"unknown key; expected one of {', '.join(sorted(allowed))}"


def _allowed(path: Path) -> list[str]:
    """The keys that the schema knows at this place; of several forms, those of all."""
    places: list[Any] = [RegistryFile]
    for part in path:
        places = [inner for place in places for inner in _below(place, part)]
    return list(dict.fromkeys(name for model in _models(places) for name in model.model_fields))


def _below(place: Any, part: str | int) -> Iterator[Any]:
    """Types found in `place` (a model or a type expression) under the key or index `part`."""
    for model in _models([place]):
        if part in model.model_fields:
            yield model.model_fields[str(part)].annotation
            return
    yield from getattr(place, "__args__", ())


def _models(places: Iterable[Any]) -> Iterator[type[BaseModel]]:
    for place in places:
        if isinstance(place, type) and issubclass(place, BaseModel):
            yield place
        else:
            yield from _models(getattr(place, "__args__", ()))
