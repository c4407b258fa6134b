from __future__ import annotations

from datetime import datetime

import pytest

from router.domain.errors import InvalidRequest
from router.domain.generation import Message
from router.engine.template import MAX_SECONDS, ChatTemplate

MESSAGES = (Message("system", "be kind"), Message("user", "hi"))


def render(source: str | None, messages=MESSAGES, **more: object) -> str:
    return ChatTemplate(source, "<s>", "</s>", lambda: datetime(2024, 5, 6), **more).render(messages)


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


def test_a_template_has_only_so_long():
    clock = iter(range(0, 1000, 1))
    with pytest.raises(InvalidRequest, match="too long"):
        render("{% for i in range(99) %}{% endfor %}", clock=lambda: next(clock))
    assert MAX_SECONDS < 99


def test_a_chat_of_thousands_of_turns_is_within_the_bounds():
    turns = tuple(Message("user", "word " * 100) for _ in range(3000))
    assert len(render(None, turns)) > 1_500_000
