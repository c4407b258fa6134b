"""
What must agree across the registry: names, aliases, who names whom, limits with each other.

The one rule: works on the text's own tree, so that it still speaks when another part of the file is wrong.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from router.domain.models import Limits
from router.registry.document import Document, Path, Problem
from router.registry.scalars import shown

_NAMED = {"models": "model", "cloud": "cloud entry", "routes": "route"}
"""Sections whose keys are names that clients may ask for; they share one namespace."""


def problems(document: Document) -> list[Problem]:
    """Every disagreement."""
    owners = _owners(document)
    return [*_twice(document), *_aliases(document, owners), *_references(document), *_keys(document)]


def limits(document: Document, chosen: Limits) -> list[Problem]:
    """Limits that contradict each other, with defaults filled in."""
    if chosen.backoff <= chosen.backoff_max:
        return []
    key = "backoff_max" if ("limits", "backoff_max") in document else "backoff"
    reason = f"backoff ({chosen.backoff:g}s) is over backoff_max ({chosen.backoff_max:g}s)"
    return [Problem(document.at("limits", key), ("limits", key), reason)]


def of_peers(document: Document) -> Iterator[tuple[str, Path]]:
    """`peer/model` of every model of every peer, and where it stands."""
    for peer, section in _mapping(document.value.get("peers")).items():
        for index, model in enumerate(_list(_mapping(section).get("models"))):
            if isinstance(model, str):
                yield f"{peer}/{model}", ("peers", peer, "models", index)


def _named(document: Document) -> Iterator[tuple[str, str, Path]]:
    """Every name with its kind and its place."""
    for section, kind in _NAMED.items():
        for name in _mapping(document.value.get(section)):
            yield name, kind, (section, name)
    for name, path in of_peers(document):
        yield name, "peer's model", path


def _owners(document: Document) -> dict[str, str]:
    owners: dict[str, str] = {}
    for name, kind, _ in _named(document):
        owners.setdefault(name, kind)
    return owners


def _twice(document: Document) -> Iterator[Problem]:
    owners: dict[str, str] = {}
    for name, kind, path in _named(document):
        if name in owners:
            reason = f"{shown(name)!r} is the name of a {owners[name]} already"
            yield Problem(document.key(*path), path, reason)
        owners.setdefault(name, kind)


def _aliases(document: Document, names: Mapping[str, str]) -> Iterator[Problem]:
    owners: dict[str, str] = {}
    for name, alias, path in _all_aliases(document):
        if alias in names:
            reason = f"{shown(alias)!r} is the name of a {names[alias]} already"
            yield Problem(document.at(*path), path, reason)
        elif alias in owners:
            reason = f"{shown(alias)!r} is an alias of {owners[alias]!r} already"
            yield Problem(document.at(*path), path, reason)
        owners.setdefault(alias, name)


def _all_aliases(document: Document) -> Iterator[tuple[str, str, Path]]:
    """Whose, the alias, where."""
    for section in _NAMED:
        for name, entry in _mapping(document.value.get(section)).items():
            for index, alias in enumerate(_list(_mapping(entry).get("aliases"))):
                if isinstance(alias, str):
                    yield name, alias, (section, name, "aliases", index)


def _references(document: Document) -> Iterator[Problem]:
    """Of candidates and fallbacks: each exists, is no route, and is named once."""
    known = _known(document)
    for section, key in (("routes", "candidates"), ("models", "fallback")):
        for owner, entry in _mapping(document.value.get(section)).items():
            seen = {owner} if section == "models" else set()
            for index, name in enumerate(_list(_mapping(entry).get(key))):
                if not isinstance(name, str):
                    continue
                path = (section, owner, key, index)
                if reason := _bad_reference(name, known, seen):
                    yield Problem(document.at(*path), path, reason)
                seen.add(known.get(name, ("", ""))[1])


def _bad_reference(name: str, known: Mapping[str, tuple[str, str]], seen: set[str]) -> str | None:
    kind, target = known.get(name, (None, ""))
    if kind is None:
        return f"no model, cloud entry or alias {shown(name)!r}{_close(name, known)}"
    if kind == "route":
        return f"{shown(name)!r} is a route: routes hold models, not other routes"
    return f"{shown(target)!r} is among the candidates already" if target in seen else None


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
                reason = f"no model or alias {shown(name)!r}{_close(name, known)}"
                yield Problem(document.at(*here), here, reason)


def _known(document: Document) -> dict[str, tuple[str, str]]:
    """Name or alias -> what kind it is, and the name it stands for."""
    found = {name: (kind, name) for name, kind, _ in _named(document)}
    for name, alias, _ in _all_aliases(document):
        found.setdefault(alias, found[name])
    return found


def _close(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
