"""
Strict YAML with the position of every key and value.

The one rule: a text that two YAML readers could understand differently is an error here, with its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

import yaml

from router.registry import scalars

MAX_BYTES = 2**20
MAX_DEPTH = 50
MAX_NODES = 100_000

_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
# What no editor shows: control characters, and line ends that would make our line numbers wrong.
_INVISIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]|\r(?!\n)")
_LEADING_TAB = re.compile(r"^ *\t[ \t]*(?=[^ \t#\r\n])", re.MULTILINE)

Scalar = str | int | float | bool | None
Node = Scalar | list["Node"] | dict[str, "Node"]
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Line and column as editors count them, from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where in the file, at which key, why."""

    position: Position
    path: Path
    reason: str

    def line(self, file: str) -> str:
        """`file:line:column: dotted.path: reason`."""
        place = f"{file}:{self.position.line}:{self.position.column}:"
        return f"{place} {dotted(self.path)}: {self.reason}" if self.path else f"{place} {self.reason}"


@dataclass(frozen=True, slots=True)
class Document:
    """A mapping and where each part of it stands. Parts named in `problems` hold their text as it is."""

    value: Mapping[str, Node]
    keys: Mapping[Path, Position]
    values: Mapping[Path, Position]
    problems: tuple[Problem, ...] = ()

    def key(self, *path: str | int) -> Position:
        """Where the key stands; for what is not in the text, where its nearest parent does."""
        return self._nearest(path)

    def at(self, *path: str | int) -> Position:
        """Where the value stands; for what is not in the text, where its nearest parent's key does."""
        return self.values.get(path) or self._nearest(path)

    def __contains__(self, path: Path) -> bool:
        return path in self.values

    def _nearest(self, path: Path) -> Position:
        for length in range(len(path), 0, -1):
            table = self.values if isinstance(path[length - 1], int) else self.keys
            if found := table.get(path[:length]):
                return found
        return Position(1, 1)


class DocumentInvalid(Exception):
    """The text has no tree to speak of. `problems` are in line order."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = in_order(problems)
        super().__init__("; ".join(p.reason for p in self.problems))


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """By position, each once."""
    return tuple(sorted(dict.fromkeys(problems), key=lambda p: p.position))


def dotted(path: Path) -> str:
    """`models.qwen3-8b.params.stop[0]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{scalars.shown(part)}" for part in path)
    return text.removeprefix(".")


def parse(data: bytes, words: frozenset[str] = frozenset()) -> Document:
    """
    Read one YAML document whose root is a mapping.

    `words` names the keys below which `on` and `off` are plain words. Raises DocumentInvalid where the text
    has no tree; problems of single scalars are in `Document.problems`, so that the rest can still be checked.
    """
    text = _decoded(data)
    composer = _Composer(words)
    try:
        root = composer.compose(text)
    except yaml.YAMLError as error:
        raise DocumentInvalid([*composer.problems, _syntax(error)]) from error
    except _Stop:
        raise DocumentInvalid(composer.problems) from None
    return Document(root, composer.keys, composer.values, in_order(composer.problems))


class _Stop(Exception):
    """The tree cannot be followed any further; the reason is among the problems."""


def _decoded(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise _invalid("the file is over 1 MiB: this is no registry")
    try:
        text = data.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(errors="replace")
        raise _invalid("not UTF-8 text", before) from error
    found = [_unwanted(text, match) for match in islice(_INVISIBLE.finditer(text), 10)]
    found += [_tab(text, match) for match in islice(_LEADING_TAB.finditer(text), 10)]
    if found:
        raise DocumentInvalid(found)
    return text


def _invalid(reason: str, before: str = "") -> DocumentInvalid:
    return DocumentInvalid([Problem(_after(before), (), reason)])


def _unwanted(text: str, match: re.Match[str]) -> Problem:
    return Problem(_after(text[: match.start()]), (), f"the invisible character U+{ord(match[0]):04X}")


def _tab(text: str, match: re.Match[str]) -> Problem:
    return Problem(_after(text[: match.end()]), (), "a tab indents this line: YAML wants spaces")


def _after(before: str) -> Position:
    line = before.count("\n")
    return Position(line + 1, len(before) - (before.rfind("\n") + 1) + 1)


def _position(event: yaml.Event) -> Position:
    mark = event.start_mark
    return Position(mark.line + 1, mark.column + 1) if mark else Position(1, 1)


def _syntax(error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or "this is not YAML"
    context = getattr(error, "context", None)
    reason = f"YAML syntax: {problem}{f' ({context})' if context else ''}"
    return Problem(Position(mark.line + 1, mark.column + 1) if mark else Position(1, 1), (), reason)


@dataclass(slots=True)
class _Composer:
    """Events to values. Recursive, and bounded: MAX_DEPTH levels, MAX_NODES nodes."""

    words: frozenset[str]
    keys: dict[Path, Position] = field(default_factory=dict)
    values: dict[Path, Position] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    events: Iterator[yaml.Event] = field(default_factory=lambda: iter(()))
    nodes: int = 0

    def compose(self, text: str) -> dict[str, Node]:
        self.events = iter(yaml.parse(text, Loader=_LOADER))
        next(self.events)  # StreamStart
        self._start_of_document(next(self.events))
        root = self._node(next(self.events), ())
        next(self.events)  # DocumentEnd
        if not isinstance(after := next(self.events), yaml.StreamEndEvent):
            raise self._stop(after, (), "a second document begins here: one file holds one registry")
        if not isinstance(root, dict):
            raise self._stop_at(Position(1, 1), (), "expected a mapping of keys (version, models, ...)")
        return root

    def _start_of_document(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.StreamEndEvent):
            raise self._stop_at(Position(1, 1), (), "the file is empty")
        if getattr(event, "version", None) or getattr(event, "tags", None):
            self._problem(event, (), "directives (%) are not part of this format")

    def _node(self, event: yaml.Event, path: Path) -> Node:
        self.nodes += 1
        if len(path) > MAX_DEPTH:
            raise self._stop(event, path[:3], f"more than {MAX_DEPTH} levels of nesting")
        if self.nodes > MAX_NODES:
            raise self._stop(event, path, f"more than {MAX_NODES} values: this is no registry")
        self.values[path] = _position(event)
        self._no_tricks(event, path)
        match event:
            case yaml.ScalarEvent():
                return self._scalar(event, path)
            case yaml.SequenceStartEvent():
                return self._sequence(path)
            case yaml.MappingStartEvent():
                return self._mapping(path)
            case _:  # an alias
                return "*alias"

    def _no_tricks(self, event: yaml.Event, path: Path) -> None:
        if isinstance(event, yaml.AliasEvent):
            self._problem(event, path, "aliases (*name) are not part of this format: write the value out")
        elif getattr(event, "anchor", None):
            self._problem(event, path, "anchors (&name) are not part of this format")
        elif getattr(event, "tag", None):
            self._problem(event, path, "tags (!name) are not part of this format")

    def _scalar(self, event: yaml.ScalarEvent, path: Path) -> Scalar:
        if not event.implicit[0]:  # quoted, a block, or tagged
            return str(event.value)
        if path and path[-1] in self.words and event.value in {"on", "off"}:
            return str(event.value)
        try:
            value = scalars.resolve(event.value)
        except scalars.Ambiguous as error:
            self._problem(event, path, str(error))
            return str(event.value)
        if value is None:
            self._problem(event, path, "there is no value: write one, or remove the key")
        return value

    def _sequence(self, path: Path) -> list[Node]:
        items: list[Node] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items))))
        return items

    def _mapping(self, path: Path) -> dict[str, Node]:
        found: dict[str, Node] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self._key(event, path)
            here = (*path, key)
            if here in self.keys:
                first = self.keys[here].line
                self._problem(event, here, f"this key is already set in line {first}")
                self._skip(next(self.events))
                continue
            self.keys[here] = _position(event)
            found[key] = self._node(next(self.events), here)
        return found

    def _key(self, event: yaml.Event, path: Path) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            self._no_tricks(event, path)
            raise self._stop(event, path, "expected a plain key")
        self._no_tricks(event, (*path, event.value))
        if event.implicit[0]:
            self._plain_key(event, path)
        return str(event.value)

    def _plain_key(self, event: yaml.ScalarEvent, path: Path) -> None:
        if event.value == "<<":
            raise self._stop(event, path, "merge keys (<<) are not part of this format: write the keys out")
        try:
            value = scalars.resolve(event.value)
        except scalars.Ambiguous as error:
            self._problem(event, (*path, event.value), str(error))
            return
        if not isinstance(value, str):
            self._problem(event, path, f"the key {event.value or 'null'} is not text: put it in quotes")

    def _skip(self, event: yaml.Event) -> None:
        """Pass over one value without a look at it."""
        depth = 0
        while True:
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth == 0:
                return
            event = next(self.events)

    def _problem(self, event: yaml.Event, path: Path, reason: str) -> None:
        self.problems.append(Problem(_position(event), path, reason))

    def _stop(self, event: yaml.Event, path: Path, reason: str) -> _Stop:
        return self._stop_at(_position(event), path, reason)

    def _stop_at(self, position: Position, path: Path, reason: str) -> _Stop:
        self.problems.append(Problem(position, path, reason))
        return _Stop()
