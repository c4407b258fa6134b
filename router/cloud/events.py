"""
An upstream's server-sent events: where one ends, and what it says of usage, end and model.

The one rule: bytes go on as they came; what is read out of them never changes them. Pure.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec

from router.domain.generation import Usage

MAX_EVENT = 4 * 2**20
"""Bytes of one event, and so of one line; an answer in one piece has its own bound."""

_BOM = b"\xef\xbb\xbf"
_END = re.compile(rb"\n\r?\n|\r\r")
_Count = Annotated[int, msgspec.Meta(ge=0, le=10**9)]


class BadAnswer(Exception):
    """What came is not what an OpenAI-compatible endpoint sends; the text is plain and quotes nothing."""


class _Details(msgspec.Struct):
    cached_tokens: _Count | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    total_tokens: _Count | None = None
    prompt_tokens_details: _Details | None = None


class _Choice(msgspec.Struct):
    index: Any = 0
    finish_reason: str | None = None
    delta: Any = None
    message: Any = None
    text: Any = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    model: str | None = None
    error: Any = None


class Facts(msgspec.Struct, frozen=True):
    """What an event or a whole answer says. All None when it says nothing that is known here."""

    usage: Usage | None = None
    finish: str | None = None
    model: str | None = None
    error: Any = None
    """The upstream's error object, if it sent one in place of an answer."""
    choices: int = 0
    words: int = 0
    """Bytes of text that the choices say, thoughts and arguments of tools included; images and the like are none."""
    spoke: tuple[int, ...] = ()
    """Indices of the choices that say something."""
    ended: tuple[int, ...] = ()
    """Indices of the choices that end."""
    anything: bool = False
    """Whether a choice brings anything, be it text, an image, audio or a field that is unknown here."""


class Splitter:
    """Bytes in, whole events out, each with its blank line."""

    def __init__(self, most: int = MAX_EVENT) -> None:
        self._most = most
        self._rest = bytearray()
        self._begun = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Raises BadAnswer when an event is longer than `most`: no more than that is ever held."""
        searched = max(0, len(self._rest) - 2)
        self._rest += chunk
        found: list[bytes] = []
        start = 0
        while end := _END.search(self._rest, max(start, searched)):
            found.append(bytes(self._rest[start : end.end()]))
            start = end.end()
        del self._rest[:start]
        if found and not self._begun:
            # A byte order mark may begin a stream, but not our client's: comments of ours may come first.
            found[0] = found[0].removeprefix(_BOM)
            self._begun = True
        if len(self._rest) > self._most or any(len(event) > self._most for event in found):
            raise BadAnswer(f"an event of its answer has more than {self._most} bytes")
        return found

    @property
    def rest(self) -> bytes:
        """What came after the last whole event."""
        return bytes(self._rest)


def data_of(event: bytes) -> bytes | None:
    """The data of an event, or None: a comment, an event without data, or a blank line too many."""
    lines = event.splitlines()
    data = b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))
    return data if data.strip() else None


def facts_of(data: bytes) -> Facts:
    """
    What a JSON object says. Raises BadAnswer when it is none.

    An object of an unknown shape is no fault: it goes on, and says nothing.
    """
    try:
        answer = _DECODER.decode(data)
    except msgspec.ValidationError:
        return _unknown(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadAnswer("its answer is not valid JSON") from None
    choices = answer.choices or []
    finish = next((c.finish_reason for c in choices if c.finish_reason), None)
    sizes = [(_index(c), _words(c.delta, c.message, c.text)) for c in choices]
    return Facts(
        _usage(answer),
        finish,
        answer.model,
        answer.error,
        len(choices),
        sum(size for _, size in sizes),
        tuple(index for index, size in sizes if size),
        tuple(_index(c) for c in choices if c.finish_reason),
        _anything([(c.delta, c.message, c.text) for c in choices]),
    )


_DECODER = msgspec.json.Decoder(_Answer)


def _unknown(data: bytes) -> Facts:
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadAnswer("its answer is not valid JSON") from None
    if not isinstance(found, dict):
        raise BadAnswer("its answer is not a JSON object")
    choices = found.get("choices")
    if not isinstance(choices, list):
        return Facts(error=found.get("error"))
    parts = [c.get(name) for c in choices if isinstance(c, dict) for name in ("delta", "message", "text")]
    said, spoke = _words(*parts), (0,)
    return Facts(
        error=found.get("error"),
        choices=len(choices),
        words=said,
        spoke=spoke if said else (),
        anything=_anything(parts),
    )


def _index(choice: _Choice) -> int:
    return choice.index if isinstance(choice.index, int) else 0


def _words(*parts: object) -> int:
    """Bytes of text in deltas, messages and plain texts: what a model generated as tokens, as far as it is known."""
    total = 0
    for part in parts:
        if isinstance(part, dict):
            total += sum(_bytes(part.get(name)) for name in _TEXT)
            # Some say the same thoughts under several names.
            total += max(_bytes(part.get(name)) for name in _THOUGHTS)
        else:
            total += _bytes(part)
    return total


def _bytes(value: object) -> int:
    """Bytes of all text in `value` that is in no field but those of text."""
    total = 0
    left = [value]
    while left:
        match left.pop():
            case str(text):
                total += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
            case dict(fields):
                left += [field for name, field in fields.items() if name in _TEXT or name in _THOUGHTS]
            case list(parts):
                left += parts
            case _:
                pass
    return total


def _anything(value: object) -> bool:
    """Whether any string is in it that is there to be told, text or not."""
    left = [value]
    while left:
        match left.pop():
            case str(text) if text:
                return True
            case dict(fields):
                left += [field for name, field in fields.items() if name not in _NO_WORDS]
            case list(parts) | tuple(parts):
                left += parts
            case _:
                pass
    return False


_THOUGHTS = frozenset(
    {"reasoning", "reasoning_content", "reasoning_details", "thinking", "thinking_blocks", "thoughts"}
)
_TEXT = frozenset(
    {"content", "text", "refusal", "summary"}
    | {"tool_calls", "function_call", "function", "custom", "name", "arguments", "input"}
)
"""Fields of text, and fields that hold them. All others may be base64 of any length: images, audio, signatures."""
_NO_WORDS = frozenset({"role", "id", "type", "finish_reason", "logprobs"})
"""Fields that are there without a word being said."""


def _usage(answer: _Answer) -> Usage | None:
    told = answer.usage
    if told is None or told.prompt_tokens is None:
        return None
    # Embeddings have no completion, and no choices; an answer that was told only half is not told.
    if told.completion_tokens is None and answer.choices is not None:
        return None
    cached = told.prompt_tokens_details.cached_tokens if told.prompt_tokens_details else None
    # Some leave thoughts out of the completion; they are in the total, and on the bill.
    completion = max(told.completion_tokens or 0, (told.total_tokens or 0) - told.prompt_tokens)
    return Usage(told.prompt_tokens, completion, cached or 0)
