"""
The filters of a chat template, each with its cost.

The one rule: the table is complete. What is not in them is refused, whatever Jinja has besides.
"""

from __future__ import annotations

import functools
import html
import json
import math
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS as JINJA
from jinja2.runtime import Undefined

from router.engine import template_budget as cost
from router.engine import template_members as members
from router.engine.template_budget import Counted, budget, guarded, listed, look_through, text

MAX_NAME = 256
"""Characters of an attribute's or filter's name that is given as a value."""

Function = Callable[..., Any]


# Numbers and plain values --------------------------------------------------------------------------------------


def _number(value: Any) -> Any:
    if not isinstance(value, int | float):
        raise SecurityError(f"a number is wanted, not a value of the kind {type(value).__name__}")
    cost.check_number(value)
    return value


def _round(value: Any, precision: int = 0, method: str = "common") -> float:
    if not -20 <= _number(precision) <= 20 or abs(_number(value)) > 1e15:
        raise SecurityError("a number this large is not rounded")
    if method == "common":
        return float(round(value, precision))
    rounding = {"ceil": math.ceil, "floor": math.floor}.get(method)
    if rounding is None:
        raise SecurityError("round knows common, ceil and floor")
    scale = 10.0**precision
    return float(rounding(value * scale) / scale)


def _int(value: Any, default: Any = 0, base: int = 10) -> Any:
    if isinstance(value, str) and len(value) > MAX_NAME:
        return default
    try:
        return int(value, base) if isinstance(value, str) else int(value)
    except (TypeError, ValueError, OverflowError):
        return _int(float(value), default) if _is_decimal(value) else default


def _is_decimal(value: Any) -> bool:
    return isinstance(value, str) and math.isfinite(_float(value, math.inf))


def _float(value: Any, default: Any = 0.0) -> Any:
    if isinstance(value, str) and len(value) > MAX_NAME:
        return default
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return default


def _default(value: Any, default: Any = "", boolean: bool = False) -> Any:
    return default if isinstance(value, Undefined) or (boolean and not value) else value


def _length(value: Any) -> int:
    return len(value)


# Text ------------------------------------------------------------------------------------------------------------


def _method(name: str) -> Function:
    """A filter that does what the method of str does."""

    def filter(value: Any, *args: Any) -> Any:
        return members.member(text(value), name)(*args)

    return filter


def _trim(value: Any, characters: str | None = None) -> str:
    known = text(value)
    members.strip(known, characters)
    return known.strip(characters)


def _replace(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    known, old, new = text(value), text(old), text(new)
    members.replacing(known, old, new)
    return known.replace(old, new, -1 if count is None else count)


def _title(value: Any) -> str:
    known = text(value)
    budget().study(8 * len(known))
    budget().make(3 * len(known))
    return "".join(word[0].upper() + word[1:].lower() for word in re.split(r"([-\s({\[<]+)", known) if word)


def _indent(value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    known = text(value)
    padding = len(width) if isinstance(width, str) else width
    lines = known.count("\n") + 1
    budget().make_pieces(2 * lines, 2 * len(known) + max(padding, 0) * (lines + 1))
    return str(jinja2.filters.do_indent(known, width, first, blank))


def _truncate(
    value: Any, length: int = 255, killwords: bool = False, end: str = "...", leeway: int = 5
) -> str:
    known, end = text(value), text(end)
    if len(known) <= length + leeway:
        return known
    budget().make(len(known) + len(end))
    kept = known[: max(0, length - len(end))]
    return kept + end if killwords else kept.rsplit(" ", 1)[0] + end


def _escape(value: Any) -> str:
    known = text(value)
    budget().make(6 * len(known))
    return html.escape(known).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")


def _urlencode(value: Any) -> str:
    known = text(value)
    budget().study(8 * len(known))
    budget().make(12 * len(known))
    return quote(known)


def _wordcount(value: Any) -> int:
    known = text(value)
    budget().study(8 * len(known))
    return sum(1 for _ in re.finditer(r"\w+", known))


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Without the HTML escapes of Jinja's own, as transformers does. Raises SecurityError."""
    if separators is not None and any(len(separator) > 8 for separator in separators):
        raise SecurityError("so long a separator is not served")
    if not isinstance(indent, int | None):
        raise SecurityError("an indent is a number")
    spaces = max(0, min(indent or 0, 8))
    cost.spell(value, growth=6, item=spaces * cost.MAX_DEPTH)
    known = budget()
    known.study(len(value) if isinstance(value, str) else 0)
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=spaces or None, separators=separators, sort_keys=sort_keys
    )


def joined(values: Iterable[Any], separator: Any = "") -> str:
    """The texts of the values, one after another."""
    between = text(separator)
    texts = [text(value) for value in listed(values)]
    budget().make(sum(map(len, texts)) + len(between) * len(texts))
    return between.join(texts)


# Sequences -------------------------------------------------------------------------------------------------------


def _lazily(name: str) -> Function:
    """Jinja's own filter, which takes values one by one and asks the environment for attributes and filters."""
    filter = JINJA[name]

    @functools.wraps(filter)
    def counted(context: Any, values: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        for name in (*args[:1], kwargs.get("attribute")):
            _check_name(name)
        return filter(context, Counted(values), *args, **kwargs)

    return counted


def _first(values: Iterable[Any]) -> Any:
    return next(iter(values), Undefined("No first item, the sequence was empty."))


def _last(values: Any) -> Any:
    return next(iter(reversed(values)), Undefined("No last item, the sequence was empty."))


def _reverse(values: Any) -> Any:
    return sliced(values, None, None, -1) if isinstance(values, str) else listed(values)[::-1]


def _items(value: Any) -> Any:
    return () if isinstance(value, Undefined) else listed(value.items())


@jinja2.pass_environment
def _join(
    environment: Any, values: Iterable[Any], separator: Any = "", attribute: str | int | None = None
) -> str:
    return joined([_key(environment, value, attribute, True) for value in listed(values)], separator)


def _charge_order(values: list[Any]) -> None:
    """Each value is compared as often as its number has bits."""
    before = budget().steps
    look_through(values)
    budget().step((before - budget().steps) * len(values).bit_length())


@jinja2.pass_environment
def _sort(
    environment: Any,
    values: Iterable[Any],
    reverse: bool = False,
    case_sensitive: bool = False,
    attribute: str | int | None = None,
) -> list[Any]:
    found = listed(values)
    keys = [_key(environment, value, attribute, case_sensitive) for value in found]
    _charge_order(keys)
    order = sorted(range(len(found)), key=keys.__getitem__, reverse=reverse)
    return [found[index] for index in order]


def _check_name(name: Any) -> None:
    if not isinstance(name, str | int | None) or (isinstance(name, str) and len(name) > MAX_NAME):
        raise SecurityError("a name of this kind is not served")


def _key(environment: Any, value: Any, attribute: str | int | None, case_sensitive: bool = False) -> Any:
    _check_name(attribute)
    for part in str(attribute).split(".") if attribute is not None else ():
        value = environment.getitem(value, int(part) if part.isdigit() else part)
    if isinstance(value, str) and not case_sensitive:
        return members.member(value, "lower")()
    return value


def _extreme(choose: Function) -> Function:
    @jinja2.pass_environment
    def filter(environment: Any, values: Any, case_sensitive: bool = False, attribute: Any = None) -> Any:
        found = _sort(environment, values, False, case_sensitive, attribute)
        return found[0 if choose is min else -1] if found else Undefined("No aggregated item, it was empty.")

    return filter


@jinja2.pass_environment
def _dictsort(
    environment: Any,
    value: dict[Any, Any],
    case_sensitive: bool = False,
    by: str = "key",
    reverse: bool = False,
) -> list[Any]:
    return _sort(environment, _items(value), reverse, case_sensitive, {"key": 0, "value": 1}[by])


@jinja2.pass_environment
def _unique(
    environment: Any, values: Iterable[Any], case_sensitive: bool = False, attribute: Any = None
) -> list[Any]:
    found: dict[Any, Any] = {}
    for value in listed(values):
        found.setdefault(cost.check_key(_key(environment, value, attribute, case_sensitive)), value)
    return list(found.values())


@jinja2.pass_environment
def _sum(environment: Any, values: Iterable[Any], attribute: Any = None, start: Any = 0) -> Any:
    total = _number(start)
    for value in Counted(values):
        total = _number(total + _number(_key(environment, value, attribute, True)))
    return total


def sliced(values: Any, start: Any, stop: Any, step: Any) -> Any:
    """`values[start:stop:step]`: it costs the length of what comes out."""
    places = slice(*(None if isinstance(place, Undefined) else place for place in (start, stop, step)))
    if not isinstance(values, str | list | tuple | range):
        raise SecurityError(f"a value of the kind {type(values).__name__} cannot be cut")
    length = len(range(*places.indices(len(values))))
    budget().make(length) if isinstance(values, str) else budget().make_list(length)
    return values[places]


_FILTERS: dict[str, Function] = {
    "abs": lambda value: abs(_number(value)),
    "capitalize": _method("capitalize"),
    "count": _length,
    "d": _default,
    "default": _default,
    "dictsort": _dictsort,
    "e": _escape,
    "escape": _escape,
    "first": _first,
    "float": _float,
    "indent": _indent,
    "int": _int,
    "items": _items,
    "join": _join,
    "last": _last,
    "length": _length,
    "list": listed,
    "lower": _method("lower"),
    "map": _lazily("map"),
    "max": _extreme(max),
    "min": _extreme(min),
    "reject": _lazily("reject"),
    "rejectattr": _lazily("rejectattr"),
    "replace": _replace,
    "reverse": _reverse,
    "round": _round,
    "safe": text,
    "select": _lazily("select"),
    "selectattr": _lazily("selectattr"),
    "sort": _sort,
    "string": text,
    "sum": _sum,
    "title": _title,
    "tojson": to_json,
    "trim": _trim,
    "truncate": _truncate,
    "unique": _unique,
    "upper": _method("upper"),
    "urlencode": _urlencode,
    "wordcount": _wordcount,
}


FILTERS = {name: guarded(filter) for name, filter in _FILTERS.items()}
