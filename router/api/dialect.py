"""
OpenAI's bodies -> domain requests.

The one rule: no I/O and no waiting; every field is used, refused with its name, or known to be harmless.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from router.api.wire import Body, SamplingBody, check_tokens, given, nothing, refuse_unsupported
from router.domain.errors import InvalidRequest, Unsupported
from router.domain.generation import ChatPrompt, Message, Prompt, TextPrompt, TokenPrompt

MAX_INPUTS = 2048
"""Texts of one embedding request."""
MAX_PROMPTS = 64
"""Prompts of one completion request; they are answered one after another."""
MAX_TOKENS = 2**19
"""Token ids of one prompt."""
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


class Part(msgspec.Struct):
    type: str
    text: str | None = None


class Turn(msgspec.Struct):
    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: msgspec.Raw = msgspec.field(default_factory=nothing)


class TypeOnly(msgspec.Struct):
    type: str | None = None


class ChatBody(SamplingBody, kw_only=True):
    messages: list[Turn] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: msgspec.Raw = msgspec.field(default_factory=nothing)
    tool_choice: msgspec.Raw = msgspec.field(default_factory=nothing)
    functions: msgspec.Raw = msgspec.field(default_factory=nothing)
    response_format: TypeOnly | None = None

    def prompts(self) -> tuple[Prompt, ...]:
        """Always one. Raises InvalidRequest, also for what is not supported yet."""
        return (self.prompt(),)

    def prompt(self) -> ChatPrompt:
        """Raises InvalidRequest, also for what is not supported yet."""
        refuse_unsupported(self)
        self._refuse_unsupported()
        if not self.messages:
            raise InvalidRequest("'messages' must hold at least one message.", "messages")
        return ChatPrompt(tuple(_message(turn, f"messages[{i}]") for i, turn in enumerate(self.messages)))

    def _refuse_unsupported(self) -> None:
        if given(self.tools) and bytes(self.tool_choice).strip() != b'"none"':
            raise Unsupported("tools are not supported yet", "tools")
        if given(self.functions):
            raise Unsupported("functions are not supported yet", "functions")
        if self.logprobs:
            raise Unsupported("logprobs are not supported yet", "logprobs")
        if self.top_logprobs:
            raise Unsupported("top_logprobs are not supported yet", "top_logprobs")
        kind = self.response_format.type if self.response_format else None
        if kind is not None and kind != "text":
            raise Unsupported(f"response_format {kind[:40]!r} is not supported yet", "response_format")


def _message(turn: Turn, where: str) -> Message:
    role = _ROLES.get(turn.role)
    if role is None:
        raise InvalidRequest(
            f"{where}.role: {turn.role[:40]!r} is not one of {', '.join(_ROLES)}.", f"{where}.role"
        )
    if given(turn.tool_calls):
        raise Unsupported("tools are not supported yet", f"{where}.tool_calls")
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
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None
    logprobs: bool | int | None = None

    def prompts(self) -> tuple[Prompt, ...]:
        """One prompt for each answer. Raises InvalidRequest, also for what is not supported yet."""
        refuse_unsupported(self)
        for name in ("echo", "suffix", "logprobs"):
            if getattr(self, name):
                raise Unsupported(f"'{name}' is not supported yet.", name)
        if self.best_of not in (None, 1):
            raise Unsupported("'best_of' is not supported: it must be 1.", "best_of")
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
