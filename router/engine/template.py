"""
Chat templates: Jinja from a model file, rendered in a sandbox that also bounds work and size.

The one rule: a template is a stranger's program. All it gets is here, and all it does is counted.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from router.domain.errors import InvalidRequest
from router.domain.generation import Message

CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""For a model whose file has no template."""

MAX_STEPS = 500_000
"""Loop turns, calls, values looked at in one rendering: some tens for a message."""
MAX_CHARACTERS = 64 * 2**20
"""Text made in one rendering, intermediate text included."""
MAX_SECONDS = 2.0
"""Of one rendering; looked at with every loop turn and call."""

# Their results can be far longer than what they are given, and no chat template was seen to need them.
_NO_FILTERS = (
    "batch",
    "center",
    "filesizeformat",
    "format",
    "pprint",
    "random",
    "slice",
    "urlize",
    "wordwrap",
    "xmlattr",
)
_NO_METHODS = frozenset(
    ("center", "encode", "expandtabs", "format_map", "ljust", "maketrans", "rjust", "translate", "zfill")
)
_WIDE = re.compile(r"\d{4}|\*|\{[^{}]*\{")


class _Budget:
    """What one rendering may still do."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.steps = MAX_STEPS
        self.characters = MAX_CHARACTERS
        self._clock = clock
        self._deadline = clock() + MAX_SECONDS

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise SecurityError("it takes too many steps")
        if self._clock() > self._deadline:
            raise SecurityError("it takes too long")

    def text(self, characters: int) -> None:
        self.characters -= characters
        if self.characters < 0:
            raise SecurityError("it makes too much text")


_budget: ContextVar[_Budget] = ContextVar("_budget")


class ChatTemplate:
    """`source` None means ChatML. A template that does not even parse fails each `render`, not the load."""

    def __init__(
        self,
        source: str | None,
        bos: str,
        eos: str,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # transformers passes them too: templates ask `tools is not none` and not whether it is defined.
        absent = {"tools": None, "documents": None}
        self._values = {"bos_token": bos, "eos_token": eos, "add_generation_prompt": True, **absent}
        self._clock = clock
        environment = _environment(now)
        self._template: jinja2.Template | None = None
        try:
            self._template = environment.from_string(source if source is not None else CHATML)
        except (jinja2.TemplateError, RecursionError, SyntaxError) as error:
            self._broken = f"The model's chat template does not parse: {error}."

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt as text. Raises InvalidRequest when the template refuses the messages or breaks."""
        if self._template is None:
            raise InvalidRequest(self._broken, param="messages")
        _budget.set(_Budget(self._clock))
        try:
            return self._template.render(self._values, messages=[_as_dict(m) for m in messages])
        except jinja2.TemplateError as error:
            raise InvalidRequest(f"The chat template refused: {error.message}", param="messages") from error
        except Exception as error:  # a template can raise whatever its expressions raise
            raise InvalidRequest(f"The chat template failed: {error!r}", param="messages") from error


def _as_dict(message: Message) -> dict[str, str]:
    plain = {"role": message.role, "content": message.content}
    return plain if message.name is None else plain | {"name": message.name}


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("*", "**", "+", "%"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        match operator, left, right:
            case "*", str() | list() | tuple(), int():
                _budget.get().text(len(left) * max(right, 0))
            case "*", int(), str() | list() | tuple():
                _budget.get().text(len(right) * max(left, 0))
            case "*" | "**", int(), int():
                _bounded_power(operator, left, right)
            case "+", str() | list() | tuple(), str() | list() | tuple():
                _budget.get().text(len(left) + len(right))
            case "%", str(), _:
                _check_format(left, left.count("%"), right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        _budget.get().step()
        method = getattr(obj, "__wrapped__", obj)  # The sandbox wraps str.format.
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            if method.__name__ == "join" and len(args) == 1:
                return _join(args[0], owner)
            _check_method(owner, method.__name__, args, kwargs)
        return super().call(context, obj, *args, **kwargs)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Every loop and every `~` goes through a filter of ours that counts."""
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            loop.iter = _through("counted_", loop.iter)
        return _Concats().visit(tree)  # type: ignore[no-any-return]


class _Concats(jinja2.visitor.NodeTransformer):
    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _through("joined_", nodes.List(list(node.nodes), lineno=node.lineno))


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; here it is its body."""

    tags = {"generation"}  # noqa: RUF012  (Jinja's own declaration)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _through(name: str, node: Any) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _counted(values: Iterable[Any]) -> Iterator[Any]:
    budget = _budget.get()
    for value in values:
        budget.step()
        yield value


def _joined(values: Iterable[Any]) -> str:
    return _join(values)


def _metered(filter: Callable[..., Any]) -> Callable[..., Any]:
    """Every filter reads its input once at least: that costs its length."""

    @functools.wraps(filter)
    def metered(*args: Any, **kwargs: Any) -> Any:
        _charge((args, kwargs))
        return filter(*args, **kwargs)

    return metered


def _output(value: Any) -> Any:
    """Jinja calls this with every value that a template writes."""
    _charge(value)
    return value


def _charge(value: Any) -> None:
    """For text that is made of `value`, or read: a list of lists of lists may be far larger than it looks."""
    budget = _budget.get()
    match value:
        case str():
            budget.text(len(value))
        case dict():
            budget.step()
            _charge(list(value.keys()))
            _charge(list(value.values()))
        case list() | tuple() | set() | frozenset():
            budget.step()
            for item in value:
                _charge(item)
        case range():
            budget.text(len(value))
        case _:
            budget.step()


def _replace(text: str, old: str, new: str, count: int = -1) -> str:
    text = str(text)
    _check_method(text, "replace", (old, new), {})
    return text.replace(old, new, -1 if count is None else count)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    padding = len(width) if isinstance(width, str) else width
    _budget.get().text(len(text) + padding * (text.count("\n") + 1))
    return jinja2.filters.do_indent(text, width, first, blank)


def _join_filter(values: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    if attribute is not None:
        values = [value[attribute] for value in values]
    return _join(values, separator)


def _join(values: Iterable[Any], separator: str = "") -> str:
    texts = []
    for value in values:
        _charge(value)
        _charge(separator)
        texts.append(str(value))
    return separator.join(texts)


def _check_method(owner: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Methods of str whose result can be far longer than the text."""
    match name, args:
        case "format", _:
            _check_format(owner, owner.count("{"), (args, kwargs))
        case "replace", (str() as old, str() as new, *_):
            _budget.get().text(len(owner) + owner.count(old) * len(new))
        case _ if name in _NO_METHODS or name == "replace":
            raise SecurityError(f"str.{name} is not served in this form")
        case _:
            _budget.get().text(len(owner))


def _check_format(pattern: str, places: int, values: Any) -> None:
    if _WIDE.search(pattern):
        raise SecurityError("a format with so wide a field is not served")
    _charge(pattern)
    for _ in range(places):
        _charge(values)


def _bounded_power(operator: str, left: int, right: int) -> None:
    bits = left.bit_length() * (max(right, 0) if operator == "**" else 1) + right.bit_length()
    if bits > 4096:
        raise SecurityError("a number this large is not served")


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _environment(now: Callable[[], datetime]) -> _Environment:
    # As transformers renders them, which is what template authors test against.
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[loopcontrols, _Generation],
        finalize=_output,
        cache_size=0,
    )
    environment.filters |= {
        "counted_": _counted,
        "joined_": _joined,
        "replace": _replace,
        "indent": _indent,
        "join": _join_filter,
        "tojson": _to_json,
    }
    environment.filters = {
        name: _metered(filter) for name, filter in environment.filters.items() if name not in _NO_FILTERS
    }
    del environment.globals["lipsum"]  # Writes a million paragraphs when asked to.
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": lambda pattern: _strftime(now(), pattern),
    }
    return environment


def _strftime(now: datetime, pattern: str) -> str:
    _check_format(pattern, 0, ())
    return now.strftime(pattern)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **_: Any) -> str:
    """Without the HTML escapes of Jinja's own, as transformers does."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=min(indent or 0, 8) or None)
