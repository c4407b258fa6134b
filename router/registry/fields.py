"""
How one value of the registry is written: names, texts, sizes, durations; and what every section has.

The one rule: a value is judged by itself, and the reason given is one that an operator can act on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from router.registry import quantities
from router.registry.quantities import DURATION_PATTERN, SHARE_PATTERN, SIZE_PATTERN, Share

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:/@+-]{0,126}[A-Za-z0-9])?")


def checked(check: Callable[[str], str | None]) -> AfterValidator:
    """A validator out of a function that says what is wrong with a text, or None."""

    def validate(value: str) -> str:
        if reason := check(value):
            raise PydanticCustomError("plain", "{reason}", {"reason": reason})
        return value

    return AfterValidator(validate)


def quantity(read: Callable[[Any], Any], *forms: dict[str, Any]) -> tuple[PlainValidator, WithJsonSchema]:
    def validate(value: object) -> object:
        try:
            return read(value)
        except ValueError as error:
            raise PydanticCustomError("plain", "{reason}", {"reason": str(error)}) from error

    schema: dict[str, Any] = {"anyOf": list(forms)} if len(forms) > 1 else forms[0]
    return PlainValidator(validate), WithJsonSchema(schema)


def _bad_name(name: str) -> str | None:
    if NAME.fullmatch(name) and ".." not in name and "//" not in name:
        return None
    return "expected 1 to 128 letters, digits or . _ : / @ + -, a letter or digit first and last"


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _gpu_layers(value: object) -> int | str:
    if value == "all" or value == "auto":
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1000:
        return value
    raise ValueError("expected auto, all or a number of layers from 0 to 1000")


_HEX = re.compile("[0-9a-fA-F]{64}")
_DURATION = {"type": "string", "pattern": DURATION_PATTERN, "examples": ["90s", "10m", "2h"]}
_SIZE = {"type": "string", "pattern": SIZE_PATTERN, "examples": ["9GiB", "800MB"]}
_SHARE = {"type": "string", "pattern": SHARE_PATTERN, "examples": ["80%"]}
_BYTES = {"type": "integer", "minimum": quantities.LEAST_BARE, "maximum": quantities.MAX_SIZE}
_LAYERS = {"type": "integer", "minimum": 0, "maximum": 1000}

Name = Annotated[str, checked(_bad_name), Field(json_schema_extra={"pattern": f"^{NAME.pattern}$"})]
Sha256 = Annotated[
    str,
    checked(lambda text: None if _HEX.fullmatch(text) else "expected the 64 hex digits of a sha256"),
    Field(json_schema_extra={"pattern": f"^{_HEX.pattern}$"}),
]
Text = Annotated[
    str,
    Field(min_length=1, max_length=4096),
    checked(lambda text: None if text.isprintable() else "expected text without control characters"),
]
DeviceBudget = Annotated[int | Share, *quantity(quantities.budget, _BYTES, _SIZE, _SHARE)]
Duration = Annotated[float, *quantity(quantities.duration, _DURATION)]
Pause = Annotated[float, *quantity(quantities.wait, _DURATION)]
Ttl = Annotated[float | None, *quantity(quantities.ttl, _DURATION, {"const": "never"})]
GpuLayers = Annotated[int | str, *quantity(_gpu_layers, _LAYERS, {"enum": ["auto", "all"]})]
Stops = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=256)]],
    Field(min_length=1, max_length=16),
    BeforeValidator(_one_or_more, json_schema_input_type=str | list[str]),
]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)
