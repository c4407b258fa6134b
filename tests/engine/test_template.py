from __future__ import annotations

import time
from datetime import datetime

import pytest
from jinja2 import nodes

from router.domain.errors import InvalidRequest
from router.domain.generation import Message
from router.engine import template_budget
from router.engine.template import NODES, ChatTemplate
from tests.engine.templates import MACROS, MESSAGES, NESTED, THINKING, render, turns


def test_a_model_without_a_template_speaks_chatml():
    assert render(None) == (
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ bos_token }}{{ messages[-1]['content'] }}{{ eos_token }}", "<s>hi</s>"),
        ("{% for m in messages %}\n  {{ m.role }}\n{% endfor %}", "  system\n  user\n"),
        ("{% for m in messages %}{{ m.role }}{% break %}{% endfor %}", "system"),
        ("{% for m in messages %}{{ m.role }}{% if not loop.last %},{% endif %}{% endfor %}", "system,user"),
        ("{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %};{% endfor %}", "system;user;"),
        ("{{ messages | map(attribute='role') | join(', ') }}", "system, user"),
        ("{{ '-'.join(messages | map(attribute='role')) }}", "system-user"),
        ("{{ messages[1] | tojson }}", '{"role": "user", "content": "hi"}'),
        ("{{ {'a': '<é>'} | tojson(indent=1) }}", '{\n "a": "<é>"\n}'),
        ("{{ strftime_now('%d %b %Y') }}", "06 May 2024"),
        ("{% if tools is not none %}tools{% endif %}{% if documents %}d{% endif %}", ""),
        ("{{ '%s has %d' % ('a', 3) }} {} {{ '{}!'.format('q') }}", "a has 3 {} q!"),
        ("{% set s = namespace(n=0) %}{% for m in messages %}{% set s.n = s.n + 1 %}{% endfor %}{{ s.n }}", "2"),
        ("{% macro f(m) %}[{{ m.role ~ m.content | trim }}]{% endmacro %}{{ f(messages[1]) }}", "[userhi]"),
        ("{{ 'be kind'.replace('be', 'is') | replace('kind', 'fine') | indent(2, true) }}", "  is fine"),
        ("{% if messages[0].content.startswith('be') and 'k' in messages[0].content %}yes{% endif %}", "yes"),
    ],
)  # fmt: skip
def test_what_templates_use_works(source, text):
    assert render(source) == text


def test_a_name_is_there_only_if_the_message_has_one():
    source = "{% for m in messages %}{{ m.name is defined }} {% endfor %}"
    assert render(source, (Message("user", "a", name="Ann"), Message("user", "b"))) == "True False "


def test_a_template_that_refuses_is_a_bad_request_with_its_words():
    with pytest.raises(InvalidRequest, match="roles must alternate") as error:
        render("{{ raise_exception('roles must alternate') }}")
    assert error.value.param == "messages"


def test_a_template_that_does_not_parse_fails_the_chat_and_not_the_load():
    template = ChatTemplate("{% if %}", "", "", datetime.now)
    with pytest.raises(InvalidRequest, match="does not parse"):
        template.render(MESSAGES)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{% include 'x' %}",
        "{{ lipsum(n=1000000) }}",
        "{{ 1 / 0 }}",
        "{{ messages.foo.bar }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_what_a_template_may_not_do_is_a_bad_request(source):
    with pytest.raises(InvalidRequest):
        render(source)


_DOUBLING = (
    "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = EXPRESSION %}{% endfor %}{{ ns.x }}"
)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{{ 'a' * 3000000000 }}",
        "{{ 3000000000 * messages }}",
        _DOUBLING.replace("EXPRESSION", "ns.x ~ ns.x"),
        _DOUBLING.replace("EXPRESSION", "ns.x + ns.x"),
        _DOUBLING.replace("EXPRESSION", "[ns.x, ns.x]"),
        _DOUBLING.replace("EXPRESSION", "ns.x.replace('a', 'aaaa')"),
        _DOUBLING.replace("EXPRESSION", "ns.x | replace('a', 'aaaa')"),
        _DOUBLING.replace("EXPRESSION", "'%s%s' % (ns.x, ns.x)"),
        _DOUBLING.replace("EXPRESSION", "'{}{}'.format(ns.x, ns.x)"),
        _DOUBLING.replace("EXPRESSION", "ns.x.join([ns.x, ns.x])"),
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}"
        "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ '{:>{w}}'.format(1, w=999999999) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ 'a'.ljust(999999999) }}",
        "{{ 'a' | center(999999999) }}",
        "{{ 'a' | indent(999999999, true) }}",
        "{{ 9 ** 999999999 }}",
        "{{ strftime_now('%999999999Y') }}",
    ],
)
def test_a_template_that_would_never_end_or_fill_memory_is_stopped(source):
    with pytest.raises(InvalidRequest):
        render(source)


FOR_EVER = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    "source",
    [
        "{{ 2.0 | round(300000000, 'ceil') }}",
        "{{ (1).to_bytes(999999999) }}",
        NESTED + "{{ nested == [nested] or nested == [nested[0], nested[1]] }}",
        NESTED + "{{ nested }}",
        NESTED + "{{ namespace(a=nested) }}",
        NESTED + "{{ nested | tojson | length }}",
        "{% for i in range(99999) %}" + "a" * 100_000 + "{% endfor %}",
        "{% set ns = namespace(x=1) %}{% for i in range(99999) %}{% set ns.x = [ns.x] + [1] * 9999 %}{% endfor %}",
        "{% set ns = namespace(x=1) %}{% for i in range(99999) %}{% set ns.x = [ns.x, LITERALS] %}{% endfor %}",
        "{{ '%0999999999d' is even }}",
        "{% set a = 'a' * 9999999 %}{% for i in range(99999) %}{% set b = a[i:] %}{% endfor %}",
        "{% set a = 'b' * 99999 %}{% for i in range(99999) %}{% set b = a.rfind('a' ~ a[9:]) %}{% endfor %}",
        "{% set a = 'b' * 99999 %}{% for i in range(99999) %}{% if a ~ 'a' in a ~ a %}{% endif %}{% endfor %}",
        "{{ 'a' | tojson(indent=-10000000000000000) and '' }}" + FOR_EVER,
        "{{ range(0, 2305843009213693951 * 99999, 2305843009213693951) | unique | length }}",
        "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(50) %}{% set ns.a = [ns.a, ns.a] %}"
        "{% set ns.b = [ns.b, ns.b] %}{% endfor %}"
        "{% for i in range(2) %}{% set x = loop.changed(0, ns.a if loop.first else ns.b) %}{% endfor %}",
        "".join(f"{{% if a{n} %}}{{% set b{n} = 1 %}}{{% endif %}}" for n in range(5000)),
        "{% if a %}" + "".join(f"{{% elif a{n} %}}" for n in range(9000)) + "{% endif %}",
        "{% autoescape true %}{% for i in range(9) %}{% endfor %}{% endautoescape %}",
        "{% block a %}{% endblock %}",
        "{{ " + "9" * 10_000 + " }}",
        "{{ " + "(" * 5_000 + ")" * 5_000 + " }}",
        "{{ 1 }}" * 100_000,
    ],
    ids=lambda source: source[:40],
)
def test_a_hostile_template_is_refused_within_two_seconds_of_processor_time(source):
    began = time.thread_time()
    with pytest.raises(InvalidRequest):
        render(source.replace("LITERALS", ", ".join("1" * 5000)))
    assert time.thread_time() - began < 2.5  # a hang guard: steps end all of them sooner


def test_a_template_that_is_too_large_to_compile_says_why():
    for source in ("{{ 1 }}" * 9000, "{{ " + "(" * 5_000 + ")" * 5_000 + " }}"):
        with pytest.raises(InvalidRequest, match=r"does not parse: \w"):
            render(source)


def test_text_that_is_written_with_an_indent_is_charged_for_its_letters_once():
    message = [Message("user", "a" * 970_000)]
    assert len(render("{{ messages | tojson(indent=4) }}", message)) > 970_000


@pytest.mark.parametrize("template", [THINKING, MACROS, None], ids=["thinking", "macros", "chatml"])
@pytest.mark.parametrize(
    ("count", "text"),
    [(501, "a"), (180, "word " * 400), (757, "word "), (8001, "word "), (3, "word " * 200_000)],
)
def test_a_long_chat_renders_with_little_of_what_it_may_use(template, count, text):
    prompt = render(template, turns(count, text), clock=lambda: 0.0)
    assert prompt.count(text.strip()) >= count
    spent = template_budget.MAX_STEPS - template_budget.budget().steps
    assert spent < 60 * count + len(prompt) / 100 + 500


def test_templates_in_the_manner_of_real_ones_say_what_they_should():
    chat = (
        Message("system", "be kind"),
        Message("user", "hi"),
        Message("assistant", "<think>\nhm\n</think>\n\nhello"),
        Message("user", "more"),
    )
    assert render(THINKING, chat) == (
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nhello"
        "<|im_end|>\n<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render(MACROS, chat[1:]) == (
        "<s><|turn>user\nhi<turn|>\n<|turn>model\n<think>\nhm\n</think>\n\nhello<turn|>\n"
        "<|turn>user\nmore<turn|>\n<|turn>model\n"
    )


def test_the_last_but_one_from_the_end_is_found_among_501():
    source = (
        "{% for m in messages[::-1] %}{% set i = (messages|length - 1) - loop.index0 %}"
        "{% if loop.last %}{{ i }}{% endif %}{% endfor %}"
    )
    assert render(source, turns(501, "a" * 2000)) == "0"


def test_time_in_which_others_run_is_nobodys_fault(monkeypatch):
    """The renderer sleeps longer than it may compute."""
    monkeypatch.setattr(template_budget, "MAX_SECONDS", 0.2)

    def now():
        time.sleep(0.4)
        return datetime(2024, 5, 6)

    source = "{{ strftime_now('%Y') }}{% for i in range(2000) %}{% endfor %}"
    assert ChatTemplate(source, "", "", now).render(MESSAGES) == "2024"


def test_every_kind_of_node_is_either_served_or_refused():
    known = {kind for kind in vars(nodes).values() if isinstance(kind, type) and issubclass(kind, nodes.Node)}
    abstract = {
        nodes.Node,
        nodes.Stmt,
        nodes.Helper,
        nodes.Expr,
        nodes.BinExpr,
        nodes.UnaryExpr,
        nodes.Literal,
    }
    refused = {
        "Block", "ContextReference", "DerivedContextReference", "EnvironmentAttribute", "EvalContextModifier",
        "ExprStmt", "ExtensionAttribute", "Extends", "FromImport", "Import", "ImportedName", "Include",
        "InternalName", "MarkSafe", "MarkSafeIfAutoescape", "OverlayScope", "ScopedEvalContextModifier",
        "_FilterTestCommon",
    }  # fmt: skip
    assert {kind.__name__ for kind in known - abstract - NODES} == refused


def test_a_chat_of_thousands_of_turns_is_within_the_bounds():
    turns = tuple(Message("user", "word " * 100) for _ in range(3000))
    assert len(render(None, turns)) > 1_500_000
