"""
OpenAI's bodies -> domain requests.

The one rule: no I/O and no waiting; what is not understood is refused by name. Which top-level fields a local model
cannot honour is `field_check`'s.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from router.api.field_check import asks_nothing, unsupported
from router.api.field_kinds import Effect, Field
from router.api.field_table import MESSAGE_FIELDS
from router.api.wire import Body, SamplingBody, check_tokens, nothing
from router.domain.errors import InvalidRequest, Unsupported
from router.domain.generation import ChatPrompt, Message, Prompt, TextPrompt, TokenPrompt

MAX_INPUTS = 2048
"""Texts of one embedding request."""
MAX_PROMPTS = 64
"""Prompts of one completion request; they are answered one after another."""
MAX_TOKENS = 2**19
"""Token ids of one prompt."""
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_REFUSED: tuple[Field, ...] = tuple(field for field in MESSAGE_FIELDS if field.effect is Effect.REFUSED)


class Part(msgspec.Struct):
    type: str
    text: str | None = None


class Turn(msgspec.Struct):
    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: msgspec.Raw = msgspec.field(default_factory=nothing)
    function_call: msgspec.Raw = msgspec.field(default_factory=nothing)
    audio: msgspec.Raw = msgspec.field(default_factory=nothing)
    refusal: msgspec.Raw = msgspec.field(default_factory=nothing)


class ChatBody(SamplingBody, kw_only=True):
    messages: list[Turn] | None = None

    def prompts(self) -> tuple[Prompt, ...]:
        """Always one. Raises InvalidRequest, also for what is not supported yet."""
        return (self.prompt(),)

    def prompt(self) -> ChatPrompt:
        """Raises InvalidRequest, also for what is not supported yet."""
        if not self.messages:
            raise InvalidRequest("'messages' must hold at least one message.", "messages")
        return ChatPrompt(tuple(_message(turn, f"messages[{i}]") for i, turn in enumerate(self.messages)))


def _message(turn: Turn, where: str) -> Message:
    role = _ROLES.get(turn.role)
    if turn.role == "function":
        raise Unsupported("Messages of functions are not supported by local models.", f"{where}.role")
    if role is None:
        raise InvalidRequest(
            f"{where}.role: {turn.role[:40]!r} is not one of {', '.join(_ROLES)}.", f"{where}.role"
        )
    for field in _REFUSED:
        value = getattr(turn, field.name)
        if value is not nothing() and not asks_nothing(field, value):  # of thousands of messages few have it
            raise unsupported(field, f"{where}.{field.name}")
    if turn.content is None and role != "assistant":
        raise InvalidRequest(f"{where}.content is missing.", f"{where}.content")
    return Message(role, _text(turn.content, where), turn.name)


def _text(content: str | list[Part] | None, where: str) -> str:
    match content:
        case None:
            return ""
        case str():
            return content
        case list():
            return "\n".join(_part(part, f"{where}.content[{i}]") for i, part in enumerate(content))
        case _:
            assert_never(content)


def _part(part: Part, where: str) -> str:
    if part.type != "text":
        raise Unsupported(f"{where}: only text parts are supported, not {part.type[:40]!r}.", where)
    if part.text is None:
        raise InvalidRequest(f"{where}.text is missing.", f"{where}.text")
    return part.text


class CompletionBody(SamplingBody, kw_only=True):
    prompt: str | list[str | int | list[int]] | None = None

    def prompts(self) -> tuple[Prompt, ...]:
        """One prompt for each answer. Raises InvalidRequest."""
        if self.prompt is None:
            raise InvalidRequest("'prompt' is missing.", "prompt")
        return tuple(_prompt(p) for p in _several(self.prompt, "prompt", MAX_PROMPTS))


def _prompt(prompt: str | tuple[int, ...]) -> Prompt:
    return TextPrompt(prompt) if isinstance(prompt, str) else TokenPrompt(prompt)


class EmbeddingBody(Body, kw_only=True):
    input: str | list[str | int | list[int]] | None = None
    encoding_format: str | None = None
    dimensions: int | None = None

    def inputs(self) -> tuple[str | tuple[int, ...], ...]:
        """Raises InvalidRequest."""
        if self.encoding_format not in (None, "float", "base64"):
            raise InvalidRequest("'encoding_format' must be float or base64.", "encoding_format")
        if self.input is None:
            raise InvalidRequest("'input' is missing.", "input")
        inputs = _several(self.input, "input", MAX_INPUTS)
        if "" in inputs:
            raise InvalidRequest("'input' must not hold an empty string.", "input")
        return inputs


def _several(
    value: str | list[str | int | list[int]], param: str, most: int
) -> tuple[str | tuple[int, ...], ...]:
    """A string, one list of token ids, or a list of strings or of such lists -> the list of them."""
    if isinstance(value, str):
        return (value,)
    if not value:
        raise InvalidRequest(f"'{param}' must not be an empty list.", param)
    if len(value) > MAX_TOKENS:  # before anything looks at each of them: the loop must not stall
        raise InvalidRequest(f"'{param}' may hold {MAX_TOKENS} token ids, not {len(value)}.", param)
    whole = [v for v in value if isinstance(v, int)]
    if len(whole) == len(value):
        return (check_tokens(whole, param),)
    if whole:
        raise InvalidRequest(f"'{param}' mixes token ids with texts.", param)
    if len(value) > most:
        raise InvalidRequest(f"'{param}' may hold {most} entries, not {len(value)}.", param)
    return tuple(_one(v, param) for v in value)


def _one(value: str | int | list[int], param: str) -> str | tuple[int, ...]:
    match value:
        case str():
            return value
        case list():
            return check_tokens(value, param)
        case int():  # not reached: a list that holds an int is one prompt or a mixture
            return (value,)
        case _:
            assert_never(value)
