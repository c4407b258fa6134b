"""
What one rendering of a chat template may still do: steps, characters, processor time.

The one rule: an operation is charged before it runs, and for what it really costs: the length of a list is one
step, a copy its length. Steps are meant to run out first, so that an answer does not depend on the machine's load.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.runtime import Undefined

MAX_STEPS = 1_000_000
"""Loop turns, calls, operators, values looked at in one rendering: some tens for a message."""
MAX_CHARACTERS = 64 * 2**20
"""Text made in one rendering, intermediate text included."""
MAX_SECONDS = 2.0
"""Processor time of the rendering thread: a busy machine takes nothing away from it."""
MAX_DEPTH = 64
"""Of lists in lists, where text is made of them or they are compared."""
_LOOK_EVERY = 256
_LIST_ITEM = 8
"""Characters that one place of a list stands for."""
_PIECE = 64
"""Characters that a short text of its own stands for."""

VIEWS: Any = (type({}.keys()), type({}.values()), type({}.items()))
SEQUENCES: Any = (list, tuple)
_CONTAINERS: Any = (*SEQUENCES, *VIEWS, dict)
_SIZED: Any = (*_CONTAINERS, range, str)
_LARGEST_KEY = 2**60
"""Python's hash of a number is its rest by 2**61 - 1: larger ones can be made to meet in one place of a dict."""
_WIDE = re.compile(r"\d{4}|\*|\{[^{}]*\{")


class Budget:
    """What one rendering may still do; `clock` is the processor time of this thread in seconds."""

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self.steps = MAX_STEPS
        self.characters = MAX_CHARACTERS
        self._clock = clock
        self._deadline = clock() + MAX_SECONDS
        self._look_at = MAX_STEPS - _LOOK_EVERY

    def step(self, count: int = 1) -> None:
        """`count` operations of up to a microsecond."""
        _refuse_gain(count)
        self.steps -= count
        if self.steps < 0:
            raise SecurityError("it takes too many steps")
        if self.steps <= self._look_at:
            self._look_at = self.steps - _LOOK_EVERY
            if self._clock() > self._deadline:
                raise SecurityError("it takes too long")

    def read(self, characters: int) -> None:
        """Text that is searched or copied."""
        self.step(characters >> 10)

    def study(self, characters: int) -> None:
        """Text that is looked at letter by letter."""
        self.step(1 + (characters >> 5))

    def make(self, characters: int) -> None:
        """Text that is new."""
        _refuse_gain(characters)
        self.characters -= characters
        if self.characters < 0:
            raise SecurityError("it makes too much text")
        self.step(characters >> 10)

    def make_list(self, items: int) -> None:
        """A list that is new, not what is in it."""
        self.make(_LIST_ITEM * items)
        self.step(items >> 5)

    def make_pieces(self, pieces: int, characters: int) -> None:
        """Texts cut out of one of that length."""
        self.make(_PIECE * pieces + characters)
        self.step(pieces >> 3)


def _refuse_gain(count: int) -> None:
    """What is charged may be nothing, but never less: it would give back what the bounds are for."""
    if count < 0:
        raise SecurityError("a negative size is not served")


_budget: ContextVar[Budget] = ContextVar("_budget")


def start(clock: Callable[[], float]) -> None:
    """A rendering begins in this thread."""
    _budget.set(Budget(clock))


def budget() -> Budget:
    """Of the rendering under way in this thread."""
    return _budget.get()


class Counted:
    """A step for each value taken; its length is known where that of the values is."""

    def __init__(self, values: Iterable[Any]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        return True  # what has no length is asked, too

    def __iter__(self) -> Iterator[Any]:
        known = budget()
        for value in self._values:
            known.step()
            yield value


def listed(values: Any) -> list[Any]:
    """The values as a list of their own."""
    if isinstance(values, _SIZED):
        budget().make_list(len(values))
        return list(values)
    found = list(Counted(values))
    budget().make_list(len(found))
    return found


def spell(value: Any, growth: int = 1, item: int = 0) -> None:
    """
    Charge for text made of all of `value`: shared lists in lists may be far longer than they look.

    `growth`: characters for each letter of a text; `item`: more of them for each place of a list or dict.
    """
    known = budget()
    for part in _parts(value):
        match part:
            case str():
                known.make(growth * len(part))
            case list() | tuple() | dict():
                known.make((4 * growth + item) * len(part) + item)
            case bool() | None | float() | Undefined():
                known.make(32)
            case int():
                known.make(1 + part.bit_length())
            case _:
                raise SecurityError(f"a value of the kind {type(part).__name__} cannot be written")


def text(value: Any) -> str:
    """`value` as text, charged for."""
    if isinstance(value, str):
        return value
    spell(value, growth=4)
    return str(value)


def look_through(value: Any) -> None:
    """Charge for a reading of all of `value`, as a comparison does it."""
    known = budget()
    for part in _parts(value):
        if isinstance(part, str):
            known.read(len(part))


def _parts(value: Any) -> Iterator[Any]:
    """The value and everything in it, as often as it is reached: a step each."""
    known = budget()
    todo = [(value, 0)]
    while todo:
        value, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise SecurityError("a value is nested too deeply")
        yield value
        if isinstance(value, dict):
            known.step(1 + 2 * len(value))
            todo.extend((part, depth + 1) for pair in value.items() for part in pair)
        elif isinstance(value, _CONTAINERS):
            known.step(1 + len(value))
            todo.extend((part, depth + 1) for part in value)
        else:
            known.step()


def compare(left: Any, right: Any, ordered: bool = True) -> None:
    """Charge for one comparison. Whether values of different length are equal is known at once."""
    known = budget()
    known.step()
    if isinstance(left, str) and isinstance(right, str):
        known.read(min(len(left), len(right)))
        return
    if not isinstance(left, _CONTAINERS) or not isinstance(right, _CONTAINERS):
        return
    if ordered or len(left) == len(right):
        look_through(left)
        look_through(right)


def contains(container: Any, value: Any) -> bool:
    """`value in container`, charged for."""
    known = budget()
    match container:
        case str():
            known.read(len(container))
        case dict():
            check_key(value)
        case range() if isinstance(value, int):
            known.step()
        case list() | tuple() | range() | dict():
            _charge_search(container, value)
        case _ if isinstance(container, VIEWS):
            _charge_search(listed(container), value)
        case Undefined():
            known.step()
        case _:
            container = listed(container)
            _charge_search(container, value)
    return bool(value in container)


def _charge_search(container: Any, value: Any) -> None:
    length = len(value) >> 10 if isinstance(value, str) else 0
    budget().step((len(container) >> 3) + len(container) * length + 1)
    if isinstance(value, _CONTAINERS):
        look_through(container)
        look_through(value)


def check_key(key: Any) -> Any:
    """What a dict is asked for: a list in a key would be read at each question. Raises SecurityError."""
    if not isinstance(key, str | int | float | None | Undefined):
        raise SecurityError(f"a key of the kind {type(key).__name__} is not served")
    if isinstance(key, int | float) and not -_LARGEST_KEY < key < _LARGEST_KEY and key == key:
        raise SecurityError("so large a number as a key is not served")
    budget().step()
    budget().read(len(key) if isinstance(key, str) else 0)
    return key


def check_number(value: Any) -> None:
    """Raises SecurityError for one that is far larger than any text is long."""
    if isinstance(value, int) and value.bit_length() > 4096:
        raise SecurityError("a number this large is not served")


def check_format(pattern: str, places: int, values: Any) -> None:
    """Charge for `values` written into `pattern`, each of them at each of its places."""
    if _WIDE.search(pattern):
        raise SecurityError("a format with so wide a field is not served")
    budget().study(len(pattern))
    budget().make(len(pattern) + sum(map(int, re.findall(r"\d+", pattern))))
    for _ in range(places):
        spell(values, growth=4)


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A step for the call, and for long lists of arguments (`*range(99999)`)."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        budget().step(1 + ((len(args) + len(kwargs)) >> 3))
        return function(*args, **kwargs)

    return called
