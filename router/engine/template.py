"""
Chat templates: Jinja from a model file, rendered in a sandbox that also bounds work and size.

The one rule: a template is a stranger's program. All it can do is in a table, with its cost: nodes here, filters
and the rest in `template_filters`, `template_tests` and `template_members`. `template_budget` counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter

from router.domain.errors import InvalidRequest
from router.domain.generation import Message
from router.engine import template_budget as cost
from router.engine.template_budget import Counted, budget, guarded
from router.engine.template_filters import FILTERS, joined, sliced
from router.engine.template_members import Method, callee, functions, member, subscript
from router.engine.template_tests import TESTS, compared

CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""For a model whose file has no template."""

MAX_SOURCE = 256 * 2**10
"""Characters of a template; the longest that were seen have 30,000."""
MAX_NODES = 8000
"""Of a parsed template: Jinja's compiler takes quadratic time."""

NODES = frozenset({
    nodes.Template, nodes.Output, nodes.For, nodes.If, nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.With,
    nodes.Assign, nodes.AssignBlock, nodes.Name, nodes.NSRef, nodes.Const, nodes.TemplateData, nodes.Tuple,
    nodes.List, nodes.Dict, nodes.Pair, nodes.Keyword, nodes.CondExpr, nodes.Filter, nodes.Test, nodes.Call,
    nodes.Getitem, nodes.Getattr, nodes.Slice, nodes.Concat, nodes.Compare, nodes.Operand, nodes.Mul, nodes.Div,
    nodes.FloorDiv, nodes.Add, nodes.Sub, nodes.Mod, nodes.Pow, nodes.And, nodes.Or, nodes.Not, nodes.Neg,
    nodes.Pos, nodes.Continue, nodes.Break, nodes.Scope,
})  # fmt: skip
"""What a template may be made of: no blocks, no other templates, no switch of escaping."""
_OPERATORS = {"lteq": "le", "gteq": "ge"}


class ChatTemplate:
    """`source` None means ChatML. A template that does not even parse fails each `render`, not the load."""

    def __init__(
        self,
        source: str | None,
        bos: str,
        eos: str,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        # transformers passes them too: templates ask `tools is not none` and not whether it is defined.
        absent = {"tools": None, "documents": None}
        self._values = {"bos_token": bos, "eos_token": eos, "add_generation_prompt": True, **absent}
        self._clock = clock
        self._template: jinja2.Template | None = None
        try:
            self._template = _compiled(source if source is not None else CHATML, now)
        except Exception as error:  # the lexer and Python's compiler raise whatever they raise, too
            why = str(error) or type(error).__name__
            self._broken = f"The model's chat template does not parse: {why}."

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt as text. Raises InvalidRequest when the template refuses the messages or breaks."""
        if self._template is None:
            raise InvalidRequest(self._broken, param="messages")
        cost.start(self._clock)
        try:
            return self._template.render(self._values, messages=[_as_dict(m) for m in messages])
        except jinja2.TemplateError as error:
            raise InvalidRequest(f"The chat template refused: {error.message}", param="messages") from error
        except Exception as error:  # a template can raise whatever its expressions raise
            words = str(error)[:200]
            kind = type(error).__name__
            raise InvalidRequest(f"The chat template failed: {kind}: {words}", param="messages") from error


def _compiled(source: str, now: Callable[[], datetime]) -> jinja2.Template:
    if len(source) > MAX_SOURCE:
        raise SecurityError(f"it has more than {MAX_SOURCE} characters")
    environment = _environment(now)
    tree = environment.parse(source)
    if sum(1 for _ in tree.find_all(nodes.Node)) > MAX_NODES:
        raise SecurityError(f"it has more than {MAX_NODES} parts")
    return environment.from_string(tree)


def _as_dict(message: Message) -> dict[str, str]:
    plain = {"role": message.role, "content": message.content}
    return plain if message.name is None else plain | {"name": message.name}


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "**", "%"))
    intercepted_unops = frozenset(("+", "-"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        budget().step()
        match operator, left, right:
            case _, int() | float(), int() | float():
                _check_numbers(operator, left, right)
            case "*", str() | list() | tuple(), int():
                _repeat(left, right)
            case "*", int(), str() | list() | tuple():
                _repeat(right, left)
            case "+", str(), str():
                budget().make(len(left) + len(right))
            case ("+", list(), list()) | ("+", tuple(), tuple()):
                budget().make_list(len(left) + len(right))
            case "%", str(), _:
                cost.check_format(left, left.count("%"), right)
            case _:
                _refuse_operands(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call_unop(self, context: Any, operator: str, arg: Any) -> Any:
        budget().step()
        return super().call_unop(context, operator, arg)

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        budget().step((4 if isinstance(obj, Macro) else 1) + ((len(args) + len(kwargs)) >> 3))
        return super().call(context, obj, *callee(obj, args, self.globals.values()), **kwargs)

    def getattr(self, obj: Any, attribute: str) -> Any:
        budget().step()
        for look in (self._member, subscript):
            try:
                return look(obj, attribute)
            except (AttributeError, TypeError, LookupError):
                continue
        return self._missing(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        budget().step()
        if isinstance(obj, Undefined):
            obj._fail_with_undefined_error()
        try:
            return subscript(obj, argument)
        except (TypeError, LookupError):
            pass
        if isinstance(argument, str):
            try:
                return self._member(obj, argument)
            except AttributeError:
                return self._missing(obj, argument)
        return self.undefined(obj=obj, name=argument)

    def _member(self, obj: Any, name: str) -> Any:
        if isinstance(obj, Undefined):
            obj._fail_with_undefined_error()
        found = member(obj, name)
        if name == "format" and isinstance(found, Method):
            return found.instead(lambda *args, **kwargs: SandboxedFormatter(self).vformat(obj, args, kwargs))
        return found

    def _missing(self, obj: Any, name: str) -> Any:
        if hasattr(type(obj), name):
            return self.unsafe_undefined(obj, name)
        return self.undefined(obj=obj, name=name)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for node in (tree, *tree.find_all(nodes.Node)):
            if type(node) not in NODES:
                raise SecurityError(f"it uses {type(node).__name__}, which is not served")
        return _Charged().visit(tree)  # type: ignore[no-any-return]


class _Charged(jinja2.visitor.NodeTransformer):
    """What compiled templates do without asking the environment goes through a function of ours that counts."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _through("counted_", node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _through("joined_", nodes.List(list(node.nodes), lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        others: list[nodes.Expr] = []
        for operand in node.ops:
            others += [nodes.Const(_OPERATORS.get(operand.op, operand.op)), operand.expr]
        return _through("compared_", node.expr, nodes.List(others))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        places = (node.arg.start, node.arg.stop, node.arg.step)
        return _through("sliced_", node.node, *(place or nodes.Const(None) for place in places))

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        """The letters between the tags are written like any other value."""
        return nodes.Const(node.data, lineno=node.lineno)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _through("made_", node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _through("made_", node) if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        for pair in node.items:
            if not isinstance(pair.key, nodes.Const):
                pair.key = _through("key_", pair.key)
        return _through("made_", node)


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; here it is its body."""

    tags = {"generation"}  # noqa: RUF012  (Jinja's own declaration)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _through(name: str, node: Any, *args: Any) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


def _made(value: Any) -> Any:
    budget().make_list(8 + 4 * len(value))
    return value


@jinja2.pass_context
def _output(context: Any, value: Any) -> Any:
    """Jinja calls this with every value that a template writes: with a context, so never while it compiles."""
    cost.spell(value, growth=1 if isinstance(value, str) else 4)
    return value


def _check_numbers(operator: str, left: float, right: float) -> None:
    for value in (left, right):
        cost.check_number(value)
    if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * (max(right, 0) if operator == "**" else 1) + right.bit_length()
        cost.check_number(1 << min(bits, 5000))


def _repeat(value: Any, times: int) -> None:
    length = len(value) * max(times, 0)
    budget().make(length) if isinstance(value, str) else budget().make_list(length)


def _refuse_operands(operator: str, left: Any, right: Any) -> None:
    if not isinstance(left, Undefined) and not isinstance(right, Undefined):
        kinds = f"{type(left).__name__} and {type(right).__name__}"
        raise SecurityError(f"{operator} is not served between {kinds}")


def _environment(now: Callable[[], datetime]) -> _Environment:
    # As transformers renders them, which is what template authors test against.
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[loopcontrols, _Generation],
        finalize=_output,
        cache_size=0,
        optimized=False,  # what is computed while it compiles is not counted
    )
    ours: dict[str, Callable[..., Any]] = {
        "compared_": compared,
        "counted_": Counted,
        "joined_": joined,
        "key_": cost.check_key,
        "made_": _made,
        "sliced_": sliced,
    }
    environment.filters = {**FILTERS, **{name: guarded(function) for name, function in ours.items()}}
    environment.tests = dict(TESTS)
    environment.globals = dict(functions(now))
    return environment
