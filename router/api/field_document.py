"""
`docs/fields.md`: the table of fields, for people.

The one rule: written from the table, never by hand: `python -m router.api.field_document > docs/fields.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from router.api import wire
from router.api.field_kinds import EVERYWHERE, Effect, Field
from router.api.field_table import MESSAGE_FIELDS, STREAM_FIELDS, TABLE

_HEAD = """\
# Fields of requests

Written from `router/api/field_table.py`: every field of OpenAI's (O), llama-server's (L) and vLLM's (V) schemas.

- *honoured*: it does what it says. An *alias* is honoured under its other name.
- *harmless*: it changes no answer of a local model, and is ignored.
- *refused*: it would change the answer and a local model cannot do that (yet): a 400 that names it, unless its value
  asks for nothing: one of those that are listed, null, or whatever is empty. An upstream of the route is asked instead.

Fields in none of the three schemas are ignored and counted (`router_unknown_fields_total`); to an upstream they travel on.
"""


def text() -> str:
    sections: list[tuple[str, Iterable[Field]]]
    sections = [(f"/v1/{_PATHS[endpoint]}", TABLE[endpoint].values()) for endpoint in EVERYWHERE]
    sections += [("One of `messages`", MESSAGE_FIELDS), ("`stream_options`", STREAM_FIELDS)]
    return _HEAD + "".join(f"\n## {title}\n\n{_table(fields)}" for title, fields in sections)


_PATHS = {"chat": "chat/completions", "completions": "completions", "embeddings": "embeddings"}


def _table(fields: Iterable[Field]) -> str:
    rows = [f"| `{field.name}` | {field.schemas} | {_said(field)} |\n" for field in fields]
    return "| field | in | what becomes of it |\n|---|---|---|\n" + "".join(rows)


def _said(field: Field) -> str:
    if field.effect is Effect.ALIAS:
        return f"alias of `{field.note}`"
    return f"{field.effect.value}{'. '.join(['', *_more(field)])}".rstrip(".")


def _more(field: Field) -> Iterator[str]:
    if field.nothing:
        values = ", ".join(f"`{wire.encode(value).decode()}`" for value in field.nothing)
        yield f"Accepted: {values}"
    if field.off_by:
        yield f'Accepted with `{field.off_by}: "none"`'
    if field.note:
        yield field.note


if __name__ == "__main__":
    sys.stdout.write(text())
