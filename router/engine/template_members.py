"""
The attributes and methods that a chat template finds on its values, and the functions it finds by name.

The one rule: the tables are complete, and each method has its cost. What is not in them is refused, whatever
Python has besides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext, Macro, Undefined
from jinja2.utils import Cycler, Joiner, Namespace

from router.engine import template_budget as cost
from router.engine.template_budget import Counted, budget, listed, look_through

MAX_RANGE = 100_000
_OBJECT = 512
"""Characters that an object of its own stands for."""
_BLANKS = "".join(c for c in map(chr, range(0x3001)) if c.isspace())
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"

Cost = Callable[..., None]


# Methods of text, by what they cost ----------------------------------------------------------------------------


def _copy(owner: str, *_: Any) -> None:
    budget().make(len(owner))


def _look(owner: str, *_: Any) -> None:
    budget().study(len(owner))


def _change(owner: str, *_: Any) -> None:
    budget().study(len(owner))
    budget().make(len(owner) * (1 if owner.isascii() else 3))


def _search(owner: str, wanted: str, *_: Any) -> None:
    budget().read(len(owner) + len(wanted))


def _search_back(owner: str, wanted: str, *_: Any) -> None:
    # Backwards Python compares at every place.
    budget().read(len(owner) * (1 + len(wanted)))


def _begin(owner: str, wanted: Any, *_: Any) -> None:
    look_through(wanted)


def strip(owner: str, characters: str | None = None) -> None:
    """Cost of str.strip and its kin."""
    budget().read(len(owner) * len(characters or " "))
    budget().make(len(owner))


def _cut(owner: str, separator: str | None = None, maxsplit: int = -1) -> None:
    pieces = _count(owner, _BLANKS) if separator is None else owner.count(separator)
    budget().make_pieces(1 + (pieces if maxsplit < 0 else min(pieces, maxsplit)), len(owner))


def _cut_back(owner: str, separator: str | None = None, maxsplit: int = -1) -> None:
    _cut(owner, separator, maxsplit)
    _search_back(owner, separator or "")


def _cut_lines(owner: str, *_: Any) -> None:
    budget().make_pieces(1 + _count(owner, _LINE_ENDS), len(owner))


def _count(text: str, characters: str) -> int:
    budget().read(len(text) * len(characters) >> 2)
    return sum(map(text.count, characters))


def replacing(owner: str, old: str, new: str, *_: Any) -> None:
    """Cost of str.replace."""
    budget().read(len(owner) + len(old))
    budget().make(len(owner) + owner.count(old) * len(new))


def _join(owner: str, values: list[str]) -> None:
    budget().make(sum(map(len, values)) + len(owner) * len(values))


def _format(owner: str, *args: Any, **kwargs: Any) -> None:
    cost.check_format(owner, owner.count("{"), (args, kwargs))


# Methods of lists and dicts ------------------------------------------------------------------------------------


def _find(owner: Any, value: Any, *_: Any) -> None:
    look_through(owner)
    look_through(value)


def _get(owner: Any, key: Any, *_: Any) -> None:
    cost.check_key(key)


def _nothing(owner: Any, *_: Any) -> None:
    """A step, which every call costs."""


def _look_at_all(owner: Any, *values: Any) -> None:
    """All of them are compared with those of the turn before, which cost as much then."""
    for value in values:
        look_through(value)


def _cycle(owner: Any, *values: Any) -> None:
    budget().step(len(values))


_STR: dict[str, Cost] = {
    "capitalize": _change,
    "casefold": _change,
    "count": _search,
    "endswith": _begin,
    "find": _search,
    "format": _format,
    "index": _search,
    "isalnum": _look,
    "isalpha": _look,
    "isascii": _nothing,
    "isdecimal": _look,
    "isdigit": _look,
    "islower": _look,
    "isnumeric": _look,
    "isspace": _look,
    "istitle": _look,
    "isupper": _look,
    "join": _join,
    "lower": _change,
    "lstrip": strip,
    "partition": _search,
    "removeprefix": _copy,
    "removesuffix": _copy,
    "replace": replacing,
    "rfind": _search_back,
    "rindex": _search_back,
    "rpartition": _search_back,
    "rsplit": _cut_back,
    "rstrip": strip,
    "split": _cut,
    "splitlines": _cut_lines,
    "startswith": _begin,
    "strip": strip,
    "swapcase": _change,
    "title": _change,
    "upper": _change,
}
_SEQUENCE: dict[str, Cost] = {"count": _find, "index": _find}
_LOOP_VALUES = (
    "depth", "depth0", "first", "index", "index0", "last", "length", "nextitem", "previtem", "revindex", "revindex0"
)  # fmt: skip

METHODS: tuple[tuple[type, dict[str, Cost]], ...] = (
    (str, _STR),
    (list, _SEQUENCE),
    (tuple, _SEQUENCE),
    (dict, {"get": _get, "items": _nothing, "keys": _nothing, "values": _nothing}),
    (LoopContext, {"changed": _look_at_all, "cycle": _cycle}),
    (Cycler, {"next": _nothing, "reset": _nothing}),
)
VALUES: tuple[tuple[type, tuple[str, ...]], ...] = ((LoopContext, _LOOP_VALUES), (Cycler, ("current",)))


class Method:
    """A method of a value, and what a call of it costs."""

    def __init__(self, name: str, owner: Any, method: Callable[..., Any], charge: Cost) -> None:
        self._name = name
        self._owner = owner
        self._method = method
        self._charge = charge

    def instead(self, method: Callable[..., Any]) -> Method:
        """Another way to do the same, at the same cost."""
        return Method(self._name, self._owner, method, self._charge)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._name == "join" and len(args) == 1:
            args = (listed(args[0]),)
        self._charge(self._owner, *args, **kwargs)
        return self._method(*args, **kwargs)


def member(owner: Any, name: str) -> Any:
    """The member of that name. Raises AttributeError when the tables have none."""
    for kind, names in VALUES:
        if isinstance(owner, kind) and name in names:
            return getattr(owner, name)
    for kind, methods in METHODS:
        if isinstance(owner, kind) and name in methods:
            return Method(name, owner, getattr(owner, name), methods[name])
    if isinstance(owner, Namespace) and not name.startswith("_"):
        return getattr(owner, name)
    raise AttributeError(name)


def subscript(owner: Any, key: Any) -> Any:
    """`owner[key]`. Raises TypeError, LookupError."""
    if isinstance(owner, dict):
        return owner[cost.check_key(key)]
    if isinstance(owner, str | list | tuple | range) and isinstance(key, int):
        return owner[key]
    raise TypeError(f"a value of the kind {type(owner).__name__} has no parts")


# Functions by name -----------------------------------------------------------------------------------------------


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(cost.text(message)[:2000])


def _range(*places: Any) -> range:
    found = range(*places)
    cost.check_number(found.start)
    cost.check_number(found.step)
    if not 0 <= len(found) <= MAX_RANGE:
        raise SecurityError(f"a range of more than {MAX_RANGE} numbers is not served")
    return found


def _pairs(values: Any, more: dict[str, Any]) -> dict[Any, Any]:
    pairs = listed(values.items() if isinstance(values, dict) else values)
    budget().make(_OBJECT + 32 * (len(pairs) + len(more)))
    return {cost.check_key(key): value for key, value in pairs} | more


def _dict(values: Any = (), **more: Any) -> dict[Any, Any]:
    return _pairs(values, more)


def _namespace(values: Any = (), **more: Any) -> Namespace:
    return Namespace(_pairs(values, more))


def _cycler(*values: Any) -> Cycler:
    budget().make(_OBJECT)
    return Cycler(*values)


def _joiner(separator: str = ", ") -> Joiner:
    budget().make(_OBJECT)
    return Joiner(cost.text(separator))


def _strftime(now: datetime, pattern: str) -> str:
    cost.check_format(pattern, 0, ())
    budget().make(100 * pattern.count("%"))
    return now.strftime(pattern)


def functions(now: Callable[[], datetime]) -> dict[str, Callable[..., Any]]:
    """By name: Jinja's own that are served, and those of transformers."""
    return {
        "cycler": _cycler,
        "dict": _dict,
        "joiner": _joiner,
        "namespace": _namespace,
        "raise_exception": _raise_exception,
        "range": _range,
        "strftime_now": lambda pattern: _strftime(now(), pattern),
    }


def callee(called: Any, args: tuple[Any, ...], known: Iterable[Any]) -> tuple[Any, ...]:
    """The arguments with which `called` may be called. Raises SecurityError when it may not."""
    if isinstance(called, LoopContext):  # a recursive loop: its values are counted like those of any other
        return tuple(Counted(values) for values in args)
    if isinstance(called, Method | Macro | Joiner | Undefined) or any(called is one for one in known):
        return args
    raise SecurityError(f"a value of the kind {type(called).__name__} cannot be called")
