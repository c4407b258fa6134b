"""
What an unquoted word of the registry means: JSON's numbers, true, false, null; all else is text.

The one rule: what YAML 1.1, YAML 1.2 and JSON read differently is refused and has to be quoted.
"""

from __future__ import annotations

import math
import re

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_MAX_DIGITS = 20
_BOOLEANS = {"y", "n", "yes", "no", "on", "off", "true", "false"}
_SURPRISES = (
    (re.compile(r"[-+]?[0-9]+(:[0-9]+)+(\.[0-9]*)?"), "some YAML readers take it for a number in base 60"),
    (re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?"), "some YAML readers take it for a date"),
    (re.compile(r"[-+]?0[0-9_]+"), "some YAML readers take the leading zero for octal"),
    (re.compile(r"[-+]?0[xob][0-9a-fA-F_]+"), "some YAML readers take it for a number of another base"),
    (re.compile(r"[-+]?[0-9][0-9_]*_[0-9_]*(\.[0-9_]*)?"), "some YAML readers drop the underscores"),
    (re.compile(r"[-+]?\.(inf|nan)", re.IGNORECASE), "it is not a finite number"),
    (re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?"), "some YAML readers see a number"),
    (re.compile(r"=|<<"), "it has a meaning of its own in YAML"),
)


class Ambiguous(ValueError):
    """An unquoted word that YAML readers disagree about; str() says what to write instead."""


def resolve(text: str) -> str | int | float | bool | None:
    """The value of a plain (unquoted) scalar. Raises Ambiguous."""
    if text in {"true", "false"}:
        return text == "true"
    if text in {"", "~"} or text.lower() == "null":
        return None
    if text.lower() in _BOOLEANS:
        words = "write true or false; where it is text, put it in quotes"
        raise Ambiguous(f"{text} unquoted is a truth value to some YAML readers: {words}")
    if _NUMBER.fullmatch(text):
        return _number(text)
    for pattern, why in _SURPRISES:
        if pattern.fullmatch(text):
            advice = "write a number plainly, put text in quotes"
            raise Ambiguous(f"{shown(text)} unquoted is ambiguous: {why}; {advice}")
    return text


def _number(text: str) -> int | float:
    if len(text) > _MAX_DIGITS:
        raise Ambiguous(f"{shown(text)} is no number that makes sense here; put it in quotes if it is text")
    if _INTEGER.fullmatch(text):
        return int(text)
    value = float(text)
    if not math.isfinite(value):
        raise Ambiguous(f"{text} is not a finite number")
    return value


def shown(value: object, limit: int = 60) -> str:
    """A value or key as it may stand in a message: one line, no control characters, not long."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
