"""
What must agree across the registry: aliases, the models of keys, limits with each other.

The one rule: works on the text's own tree, so that it still speaks when another part of the file is wrong.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from router.domain.models import Limits
from router.registry.document import Document, Problem
from router.registry.scalars import shown


def problems(document: Document) -> list[Problem]:
    """Every disagreement."""
    return [*_aliases(document), *_keys(document)]


def limits(document: Document, chosen: Limits) -> list[Problem]:
    """Limits that contradict each other, with defaults filled in."""
    if chosen.backoff <= chosen.backoff_max:
        return []
    key = "backoff_max" if ("limits", "backoff_max") in document else "backoff"
    reason = f"backoff ({chosen.backoff:g}s) is over backoff_max ({chosen.backoff_max:g}s)"
    return [Problem(document.at("limits", key), ("limits", key), reason)]


def _aliases(document: Document) -> Iterator[Problem]:
    models = _mapping(document.value.get("models"))
    owners: dict[str, str] = {}
    for name, model in models.items():
        for index, alias in enumerate(_list(_mapping(model).get("aliases"))):
            path = ("models", name, "aliases", index)
            if not isinstance(alias, str):
                continue
            if alias in models:
                yield Problem(document.at(*path), path, f"{shown(alias)!r} is the name of a model already")
            elif alias in owners:
                reason = f"{shown(alias)!r} is an alias of {owners[alias]!r} already"
                yield Problem(document.at(*path), path, reason)
            owners.setdefault(alias, name)


def _keys(document: Document) -> Iterator[Problem]:
    known = _known(document)
    seen: dict[tuple[str, str], int] = {}
    for index, key in enumerate(map(_mapping, _list(document.value.get("keys")))):
        for part in ("name", "sha256"):
            value = key.get(part)
            if not isinstance(value, str):
                continue
            first = seen.setdefault((part, value.lower()), index)
            if first != index:
                path = ("keys", index, part)
                yield Problem(document.at(*path), path, f"the same {part} as keys[{first}]")
        for place, name in enumerate(_list(key.get("models"))):
            if isinstance(name, str) and name != "*" and name not in known:
                here = ("keys", index, "models", place)
                near = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                yield Problem(document.at(*here), here, f"no model or alias {shown(name)!r}{hint}")


def _known(document: Document) -> list[str]:
    models = _mapping(document.value.get("models"))
    aliases = (alias for model in models.values() for alias in _list(_mapping(model).get("aliases")))
    return [*models, *(alias for alias in aliases if isinstance(alias, str))]


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
