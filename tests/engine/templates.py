"""Rendering a template as the engine does, and templates in the manner of real ones."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from router.domain.errors import InvalidRequest
from router.domain.generation import Message
from router.engine import template_budget
from router.engine.template import ChatTemplate

MESSAGES = (Message("system", "be kind"), Message("user", "hi"))

THINKING = """
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string
        and not(message.content.startswith('<tool>') and message.content.endswith('</tool>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{% set content = message.content %}{% else %}{% set content = '' %}{% endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thoughts = '' %}
        {%- if message.thoughts is string %}
            {%- set thoughts = message.thoughts %}
        {%- elif '</think>' in content %}
            {%- set thoughts = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or (not loop.last and thoughts)) %}
            {{- '<|im_start|>' + message.role + '\n<think>\n'
                + thoughts.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}{{- call.function | tojson }}{% endfor %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}
"""
"""In the manner of those that look for the last question from the end, and drop thoughts before it."""

MACROS = """
{%- macro plain(value) -%}
    {%- set ns = namespace(text='') -%}
    {%- for part in value.split('<channel|>') -%}
        {%- if '<|channel>' in part -%}{%- set ns.text = ns.text + part.split('<|channel>')[0] -%}
        {%- else -%}{%- set ns.text = ns.text + part -%}{%- endif -%}
    {%- endfor -%}
    {{- ns.text | trim -}}
{%- endmacro -%}
{%- macro described(value) -%}
    {%- if value is string -%}<"{{ value }}">
    {%- elif value is mapping -%}{ {%- for key, item in value | dictsort -%}{{ key }}:{{ described(item) }},{%- endfor -%} }
    {%- elif value is sequence -%}[
        {%- for item in value -%}{{ described(item) }}{%- if not loop.last %},{% endif -%}{%- endfor -%}]
    {%- else -%}{{ value }}{%- endif -%}
{%- endmacro -%}
{{- bos_token -}}
{%- set ns = namespace(previous='', last=-1) -%}
{%- if messages[0]['role'] in ['system', 'developer'] -%}
    {{- '<|turn>system\n' + messages[0]['content'] | trim + strftime_now('%d %B %Y') + '<turn|>\n' -}}
    {%- set rest = messages[1:] -%}
{%- else -%}{%- set rest = messages -%}{%- endif -%}
{%- for message in rest -%}
    {%- if message['role'] == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in rest -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {%- set before = namespace(role=none) -%}
    {%- if loop.index0 > 0 -%}
        {%- for at in range(loop.index0 - 1, -1, -1) -%}
            {%- if rest[at]['role'] != 'tool' -%}{%- set before.role = rest[at]['role'] -%}{%- break -%}{%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {%- if not (role == 'model' and before.role == 'assistant') -%}{{- '<|turn>' + role + '\n' -}}{%- endif -%}
    {%- if message['content'] is string -%}
        {%- if role == 'model' -%}{{- plain(message['content']) -}}
        {%- else -%}{{- message['content'] | trim -}}{%- endif -%}
    {%- elif message['content'] is sequence -%}
        {%- for item in message['content'] if item['type'] == 'text' -%}{{- item['text'] | trim -}}{%- endfor -%}
    {%- endif -%}
    {{- described({'role': role, 'at': [loop.index, loop.revindex]}) if message.get('name') else '' -}}
    {{- '<turn|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|turn>model\n' -}}{%- endif -%}
"""
"""In the manner of those that keep their work in macros and look back from each turn."""


def render(source: str | None, messages: Sequence[Message] = MESSAGES, **more: object) -> str:
    return ChatTemplate(source, "<s>", "</s>", lambda: datetime(2024, 5, 6), **more).render(messages)  # type: ignore[arg-type]


def turns(count: int, text: str) -> tuple[Message, ...]:
    """So many turns, the user's first and last."""
    return tuple(Message(("user", "assistant")[at % 2], text) for at in range(count))


NESTED = (
    "{% set ns = namespace(x='a' * 1000) %}{% for i in range(50) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
    "{% set nested = ns.x %}{% set mapped = {'a': nested, 'b': {'c': nested}} %}"
)
"""`nested` has 2 to the 50th texts in it, and 50 lists."""
LARGE = (
    "'a' * 100000", "'%0999999999d'", "'{:>999999999}'", "nested", "mapped", "range(99999)", "2 ** 4000", "1e308",
    "-1",
)  # fmt: skip
ARGUMENTS = (
    "",
    "nested",
    "range(99999)",
    "-1",
    "999999999",
    "300000000, 'ceil'",
    "'a', 'b' * 100000",
    "'', 'b' * 1000",
    "'a' * 50000, 9999",
    "*range(99999)",
    "attribute='a.' * 100000",
)


def cost_of(expression: str) -> tuple[float, int, str]:
    """
    Processor seconds, steps, and what came of one expression that is computed once.

    A result that is taken value by value is taken whole.
    """
    source = (
        NESTED
        + "{% set y = EXPRESSION %}{% if y is iterable and y is not string %}{% for z in y %}{% endfor %}{% endif %}"
    )
    template = ChatTemplate(source.replace("EXPRESSION", expression), "", "", datetime.now)
    began = time.thread_time()
    try:
        template.render(MESSAGES)
        outcome = "rendered"
    except InvalidRequest as error:
        outcome = error.message
    return time.thread_time() - began, template_budget.MAX_STEPS - template_budget.budget().steps, outcome


def overruns(expressions: Iterable[str]) -> list[str]:
    """Those that took far more time than they were charged for, or ran out of memory; the process gets 1 GiB more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    steps, template_budget.MAX_STEPS = template_budget.MAX_STEPS, 50_000
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30, old[1]))
    found = []
    try:
        for expression in expressions:
            seconds, charged, outcome = cost_of(expression)
            if seconds > 0.5 + 10e-6 * charged or "MemoryError" in outcome:
                found.append(f"{expression}: {seconds:.2f} s, {charged} steps, {outcome}")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)
        template_budget.MAX_STEPS = steps
    return found
