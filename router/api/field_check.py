"""
A request's fields, compared with the table: what a local model would have to refuse, and what nobody knows.

The one rule: a field that would change the answer is refused by its name or asks for nothing; it is never ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from router.api import wire
from router.api.field_kinds import Effect, Endpoint, Field
from router.api.field_table import STREAM_FIELDS, TABLE
from router.domain.errors import Unsupported

_LONGEST_NOTHING = 1000
"""Bytes; a longer value asks for something, and is not decoded."""
_NONE = b'"none"'
_STREAM = {field.name: field for field in STREAM_FIELDS}
_Members = dict[str, msgspec.Raw]


@dataclass(frozen=True, slots=True)
class FieldCheck:
    endpoint: Endpoint
    refused: Field | None
    """The first field, in the order of the table, that a local model cannot honour."""
    unknown: int
    """How many fields are in none of the schemas."""
    inside: str = ""
    """The object that holds the refused field, with a dot; empty for the body itself."""

    def refuse(self) -> None:
        """Raises Unsupported."""
        if self.refused is not None:
            raise unsupported(self.refused, self.inside + self.refused.name)


def check(raw: bytes, endpoint: Endpoint) -> FieldCheck:
    """`raw`: a body that was decoded. Raises InvalidRequest for names that are no text. No bytes of it are kept."""
    members = wire.decode(raw, _Members)
    table = TABLE[endpoint]
    unknown = len(members.keys() - table.keys())
    if refused := _refused(table, members):
        return FieldCheck(endpoint, refused, unknown)
    options = members.get("stream_options")
    if options is None or "stream_options" not in table or not wire.given(options):
        return FieldCheck(endpoint, None, unknown)
    inner = wire.decode_field(options, _Members, "stream_options")
    return FieldCheck(endpoint, _refused(_STREAM, inner), unknown, "stream_options.")


def _refused(table: Mapping[str, Field], members: Mapping[str, msgspec.Raw]) -> Field | None:
    return next((field for name, field in table.items() if name in members and _asks(field, members)), None)


def unsupported(field: Field, param: str) -> Unsupported:
    accepted = " or ".join(wire.encode(value).decode() for value in field.nothing)
    words = f" (only {accepted})" if accepted else ""
    return Unsupported(f"'{param}' is not supported by local models{words}.", param)


def _asks(field: Field, members: Mapping[str, msgspec.Raw]) -> bool:
    if field.effect is not Effect.REFUSED or asks_nothing(field, members[field.name]):
        return False
    return field.off_by is None or bytes(members.get(field.off_by, b"")).strip() != _NONE


def asks_nothing(field: Field, value: msgspec.Raw) -> bool:
    """Whether this value of a refused field changes no answer."""
    text = bytes(value)
    if len(text) > _LONGEST_NOTHING:
        return False
    try:
        found: object = msgspec.json.decode(text)
    except wire.UNREADABLE:
        return False
    if found is False:
        return True not in field.nothing
    return _is_empty(found) or any(_same(found, nothing) for nothing in field.nothing)


def _is_empty(value: object) -> bool:
    """Null, "", and lists and objects that hold only such: SDKs write out what their callers left open."""
    if isinstance(value, dict):
        return all(map(_is_empty, value.values()))
    if isinstance(value, list):
        return all(map(_is_empty, value))
    return value is None or value == ""


def _same(value: object, nothing: object) -> bool:
    """1 is 1.0, but true is not 1."""
    return value == nothing and isinstance(value, bool) == isinstance(nothing, bool)
