"""
The registry as a human writes it: every key, its type and its bounds.

The one rule: shapes and single values only. What needs a file, a device or a second key is the loader's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    WithJsonSchema,
)
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import PydanticCustomError, core_schema

from router.domain.models import FlashAttention, KvType
from router.registry import quantities
from router.registry.quantities import DURATION_PATTERN, SHARE_PATTERN, SIZE_PATTERN, Share

WORDS = frozenset({"flash_attention"})
"""Keys below which an unquoted `on` or `off` is a plain word."""

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:/@+-]{0,126}[A-Za-z0-9])?")


def _checked(check: Callable[[str], str | None]) -> AfterValidator:
    """A validator out of a function that says what is wrong with a text, or None."""

    def validate(value: str) -> str:
        if reason := check(value):
            raise PydanticCustomError("plain", "{reason}", {"reason": reason})
        return value

    return AfterValidator(validate)


def _quantity(read: Callable[[Any], Any], *forms: dict[str, Any]) -> tuple[PlainValidator, WithJsonSchema]:
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


def _local(value: object) -> object:
    if value in ("fallback", "spill"):
        reason = f"{value} is not supported yet; leave the key out, or write never"
        raise PydanticCustomError("plain", "{reason}", {"reason": reason})
    return value


def _version(value: object) -> int:
    if type(value) is int and value == 1:
        return value
    raise ValueError("expected 1, the only version there is")


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _gpu_layers(value: object) -> int | str:
    if value == "all" or value == "auto":
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1000:
        return value
    raise ValueError("expected auto, all or a number of layers from 0 to 1000")


def _ttl(value: object) -> float | None:
    if value == "never":
        return None
    try:
        return quantities.duration(value)
    except ValueError as error:
        raise ValueError(f"{error}; or never") from error


def _some_wait(value: object) -> float:
    if (seconds := quantities.duration(value)) >= 0.1:
        return seconds
    raise ValueError("expected at least 100ms")


_HEX = re.compile("[0-9a-fA-F]{64}")
_DURATION = {"type": "string", "pattern": DURATION_PATTERN, "examples": ["90s", "10m", "2h"]}
_SIZE = {"type": "string", "pattern": SIZE_PATTERN, "examples": ["9GiB", "800MB"]}
_SHARE = {"type": "string", "pattern": SHARE_PATTERN, "examples": ["80%"]}
_BYTES = {"type": "integer", "minimum": 1, "maximum": quantities.MAX_SIZE}
_LAYERS = {"type": "integer", "minimum": 0, "maximum": 1000}

Name = Annotated[str, _checked(_bad_name), Field(json_schema_extra={"pattern": f"^{NAME.pattern}$"})]
Sha256 = Annotated[
    str,
    _checked(lambda text: None if _HEX.fullmatch(text) else "expected the 64 hex digits of a sha256"),
    Field(json_schema_extra={"pattern": f"^{_HEX.pattern}$"}),
]
Text = Annotated[
    str,
    Field(min_length=1, max_length=4096),
    _checked(lambda text: None if text.isprintable() else "expected text without control characters"),
]
Budget = Annotated[int | Share, *_quantity(quantities.budget, _BYTES, _SIZE, _SHARE)]
Duration = Annotated[float, *_quantity(quantities.duration, _DURATION)]
Pause = Annotated[float, *_quantity(_some_wait, _DURATION)]
Ttl = Annotated[float | None, *_quantity(_ttl, _DURATION, {"const": "never"})]
GpuLayers = Annotated[int | str, *_quantity(_gpu_layers, _LAYERS, {"enum": ["auto", "all"]})]
Stops = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=256)]],
    Field(min_length=1, max_length=16),
    BeforeValidator(_one_or_more, json_schema_input_type=str | list[str]),
]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class Device(Section):
    """The memory that models share. Its name: gpu0, host, or auto (the first GPU, else host memory)."""

    budget: Budget
    """What models may hold of it in all: a share (80%) or bytes (9GiB). The rest is headroom."""


class Limits(Section):
    """How long and how many requests may wait for memory."""

    max_waiting: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Requests that may wait in all; more are answered 429. Default 256."""
    max_waiting_per_model: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Default 64."""
    max_wait: Pause | None = None
    """The longest a request waits for its model. Default 5m."""
    patience: Duration | None = None
    """How long the head of the queue lets a busy model run on before it is drained. Default 10s."""
    hold: Duration | None = None
    """The least time a loaded model stays while others want its memory. Default 2s."""
    backoff: Pause | None = None
    """The first pause after a failed load; it doubles. Default 5s."""
    backoff_max: Pause | None = None
    """Default 5m."""
    failures: Annotated[int, Field(ge=1, le=1000)] | None = None
    """So many failures within failure_window mark a model as failed for a while. Default 3."""
    failure_window: Pause | None = None
    """Default 1m."""


class Params(Section):
    """What a request gets that does not say otherwise."""

    temperature: Annotated[float, Field(ge=0, le=5)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=10_485_760)] | None = None
    stop: Stops | None = None
    """One text or a list of them: the answer ends before it."""


class Engine(Section):
    """What both `defaults` and a model may say."""

    context: Annotated[int, Field(ge=16, le=10_485_760)] | None = None
    """Tokens that one request can hold, prompt and answer. Default: the model's own, at most 4096."""
    slots: Annotated[int, Field(ge=1, le=256)] | None = None
    """Requests that run at once in one batch; each has a context of its own. Default 4."""
    gpu_layers: GpuLayers | None = None
    """auto: as many as fit the budget (default); all; or a number."""
    kv_type: KvType | None = None
    """Type of the KV cache. Default f16; q8_0 halves its bytes."""
    flash_attention: FlashAttention | None = None
    ubatch: Annotated[int, Field(ge=16, le=16384)] | None = None
    """Tokens of one micro-batch of prefill. Default 512."""
    ttl: Ttl | None = None
    """Idle time after which the model leaves memory. Default 10m."""
    params: Params | None = None


class CachedFile(Section):
    """A file of the cache directory's `models` folder."""

    cache: Text


class PackagedFile(Section):
    """A file that an installed Python package carries."""

    package: Text
    file: Text


def _kind_of_path(value: object) -> str | None:
    if isinstance(value, str):
        return "path:text"
    if not isinstance(value, dict):
        return None
    return next((f"path:{key}" for key in ("cache", "package") if key in value), None)


ModelPath = Annotated[
    Annotated[Text, Tag("path:text")]
    | Annotated[CachedFile, Tag("path:cache")]
    | Annotated[PackagedFile, Tag("path:package")],
    Discriminator(
        _kind_of_path,
        custom_error_type="plain",
        custom_error_message="expected a path, {cache: file} or {package: name, file: file}; "
        "{hf: ...} is not supported yet",
    ),
]


class Model(Engine):
    """One model: where its file is, and how it is run."""

    path: ModelPath
    """A file (absolute, ~, or relative to this registry), {cache: file}, or {package: name, file: file}."""
    sha256: Sha256 | None = None
    """Of the file; checked before the first load."""
    aliases: list[Name] | None = None
    """Other names that clients may use."""
    pinned: bool | None = None
    """Never evicted, never unloaded by ttl."""
    preload: bool | None = None
    """Loaded at the start of the gateway."""
    priority: Annotated[int, Field(ge=-100, le=100)] | None = None
    quality: Literal["classify", "chat", "agentic"] | None = None
    """What the model is good enough for."""
    cloud: Annotated[Literal["never"], BeforeValidator(_local)] | None = None
    """No byte of a request for it leaves this machine."""


class Key(Section):
    """A client. `sha256` is that of its key: the key itself is nowhere in this file."""

    name: Name
    sha256: Sha256
    models: Annotated[list[Text], Field(min_length=1)] = ["*"]
    """Models or aliases it may use; "*" is all."""


class RegistryFile(Section):
    """The registry of a Router gateway."""

    model_config = ConfigDict(title="Router registry")

    version: Annotated[int, *_quantity(_version, {"const": 1})]
    devices: Annotated[dict[Name, Device], Field(min_length=1, max_length=1)] | None = None
    """Omitted: the first GPU with 80% of its memory, else half of the host's."""
    limits: Limits | None = None
    defaults: Engine | None = None
    models: Annotated[dict[Name, Model], Field(min_length=1, max_length=1000)]
    keys: Annotated[list[Key], Field(min_length=1)] | None = None
    """Omitted: open, on loopback addresses only."""


NOT_YET = {
    "host": "host memory for KV snapshots is not supported yet",
    "cloud": "cloud models are not supported yet",
    "routes": "routes are not supported yet",
    "rpm": "request rates are not supported yet",
}
"""Keys of a later version, with what to say of them."""


class _Plain(GenerateJsonSchema):
    """Optional means that the key may be left out, not that it may be null."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        if schema.get("default") is None:
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)


def json_schema() -> dict[str, Any]:
    """The JSON schema of the file, for editors (`config/registry.schema.json`)."""
    schema = RegistryFile.model_json_schema(schema_generator=_Plain)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema
