"""
A trace: who asked for which model, when, and how long prompt and answer were.

The one rule: a file is read whole or refused with every line that is wrong; nothing is guessed or left out.
"""

from __future__ import annotations

import csv
import datetime
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from router.domain.errors import RouterError

HEADER = ("arrival", "model", "prompt_tokens", "output_tokens")
"""Seconds from any start, a name or alias of the registry, tokens, tokens."""
AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
"""The Azure LLM inference traces: no model in them; `workload.assign` gives them one."""

MAX_REQUESTS = 1_000_000
MAX_TOKENS = 10_000_000
MAX_PROBLEMS = 20
"""So many are told, first ones first."""

Row = Sequence[str]
Problem = tuple[int, str]
"""Line and what is wrong in it."""


@dataclass(frozen=True, slots=True)
class Request:
    """`at` in seconds since the first one; `model` is empty when the trace names none."""

    at: float
    model: str
    prompt: int
    output: int


class TraceInvalid(RouterError):
    """The file is no trace; each of `problems` begins with its place."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def read(path: Path, known: Collection[str] | None = None, most: int = MAX_REQUESTS) -> list[Request]:
    """
    The first `most` requests of a CSV file in order of arrival, the first at second 0.

    `known`: the names that its models may have; None = any. Raises TraceInvalid.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _parse(path, file, known, most)
    except UnicodeDecodeError as error:
        raise TraceInvalid([f"{path}: this is no text in UTF-8"]) from error
    except (OSError, ValueError) as error:
        raise TraceInvalid(
            [f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"]
        ) from error


def write(path: Path, requests: Iterable[Request]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(HEADER)
        out.writerows((f"{r.at:.3f}", r.model, r.prompt, r.output) for r in requests)


def _parse(path: Path, lines: Iterable[str], known: Collection[str] | None, most: int) -> list[Request]:
    problems: list[Problem] = []
    found: list[Request] = []
    rows = csv.reader(lines, strict=True)
    try:
        understand = _understander(next(rows, []), known)
        for row in rows:
            if len(found) == most or len(problems) == MAX_PROBLEMS:
                break
            if not any(cell.strip() for cell in row):
                continue
            try:
                found.append(understand(row))
            except ValueError as error:
                problems.append((rows.line_num, str(error)))
    except csv.Error as error:
        problems.append((rows.line_num, f"this is no CSV: {error}"))
    except _Unreadable as error:
        problems.append((1, str(error)))
    if problems:
        raise TraceInvalid([f"{path}:{line}: {what}" for line, what in problems])
    if not found:
        raise TraceInvalid([f"{path}: there is no request in it"])
    return _from_zero(found)


class _Unreadable(Exception):
    """The first line names no columns that are known."""


def _understander(header: Row, known: Collection[str] | None) -> Callable[[Row], Request]:
    """How a row becomes a request. Columns may come in any order; further ones are passed over."""
    names = [cell.strip() for cell in header]
    for columns, make in ((HEADER, _ours), (AZURE, _azure)):
        if set(columns) <= set(names):
            places = [names.index(column) for column in columns]
            return lambda row: make([_cell(row, names, place) for place in places], known)
    shown = ",".join(names)[:80] or "nothing"
    raise _Unreadable(f"expected the columns {','.join(HEADER)} or {','.join(AZURE)}, not {shown}")


def _cell(row: Row, names: Sequence[str], place: int) -> str:
    if place >= len(row):
        raise ValueError(f"{names[place]} is missing: {len(row)} of {len(names)} columns are there")
    return row[place].strip()


def _ours(cells: Row, known: Collection[str] | None) -> Request:
    arrival, model, prompt, output = cells
    if known is not None and model not in known:
        raise ValueError(f"model: the registry has no {model[:80]!r}")
    return Request(_seconds(arrival), model, _tokens(HEADER[2], prompt, 1), _tokens(HEADER[3], output, 0))


def _azure(cells: Row, known: Collection[str] | None) -> Request:
    moment, prompt, output = cells
    try:
        # Seven digits of a second; older Pythons take six.
        at = datetime.datetime.fromisoformat(moment[:26]).replace(tzinfo=datetime.UTC).timestamp()
    except ValueError:
        raise ValueError(f"{AZURE[0]}: {moment[:40]!r} is no date and time") from None
    return Request(at, "", _tokens(AZURE[1], prompt, 1), _tokens(AZURE[2], output, 0))


def _seconds(text: str) -> float:
    try:
        at = float(text)
    except ValueError:
        at = math.nan
    if not 0 <= at < 1e10:
        raise ValueError(f"{HEADER[0]}: {text[:40]!r} is no number of seconds from 0 on")
    return at


def _tokens(column: str, text: str, least: int) -> int:
    digits = text if text.isascii() and text.isdigit() and len(text) < 10 else "-1"
    if not least <= int(digits) <= MAX_TOKENS:
        raise ValueError(f"{column}: {text[:40]!r} is no whole number from {least} to {MAX_TOKENS}")
    return int(digits)


def _from_zero(found: list[Request]) -> list[Request]:
    """In order of arrival: a trace that was put together from several logs often is not."""
    found.sort(key=lambda request: request.at)
    return list(_shifted(found, found[0].at, 1.0))


def stretched(requests: Sequence[Request], factor: float) -> list[Request]:
    """The same requests `factor` times as slowly: 10 = a tenth of the rate."""
    return list(_shifted(requests, 0.0, factor))


def _shifted(requests: Sequence[Request], start: float, factor: float) -> Iterator[Request]:
    return (Request(round((r.at - start) * factor, 6), r.model, r.prompt, r.output) for r in requests)
