"""
The registry as a human writes it: every key, its type and its bounds.

The one rule: shapes and single values only. What needs a file, a device or a second key is the loader's.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from router.domain.models import FlashAttention, KvType
from router.domain.routes import CloudMode, Quality
from router.registry.cloud_schema import Budget, Cloud, Peer, Route, Spill
from router.registry.fields import (
    DeviceBudget,
    Duration,
    GpuLayers,
    Name,
    Pause,
    Section,
    Sha256,
    Stops,
    Text,
    Ttl,
    quantity,
)

WORDS = frozenset({"flash_attention"})
"""Keys below which an unquoted `on` or `off` is a plain word."""


def _version(value: object) -> int:
    if type(value) is int and value == 1:
        return value
    raise ValueError("expected 1, the only version there is")


class Device(Section):
    """
    Memory that models share. Its name: gpu0, gpu1, ..., host, or auto: the first GPU if there is one, else the host,
    and nothing where the host is declared as well.
    """

    budget: DeviceBudget
    """What models may hold of it in all: a share (80%) or bytes (9GiB). The rest is headroom."""
    max_temperature: Annotated[int, Field(ge=50, le=110)] | None = None
    """
    Degrees Celsius of a GPU. At or above it, models on it run ever fewer requests at once, down to an eighth of
    their slots and at least one; 5 degrees below it ever more again. Nothing that runs is cut. Default: no limit.
    """


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
    hold_factor: Annotated[float, Field(ge=0, le=100)] | None = None
    """It stays at least so many times as long as its load took, but for this never beyond patience. Default 2."""
    aging: Duration | None = None
    """A request is served as if it had come so much earlier for each point of its model's priority. Default 10s."""
    eviction: Literal["cost", "lru"] | None = None
    """
    Who goes of several: cost = the cheapest to do without (seconds of its reload, how often it is asked for, the
    bytes that it gives), lru = the least recently used. Default cost.
    """
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
    repeat_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
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
    """
    Idle time after which the model leaves memory. 0s: after each request; never: only when others need its memory.
    Default 10m.
    """
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
    quality: Quality | None = None
    """What the model is good enough for. agentic and code: a file under Q4_K_M is a warning."""
    cloud: CloudMode | None = None
    """
    never (default): no byte of a request for it leaves this machine, and no route with an upstream or a peer may hold
    it. fallback: what cannot be served here may leave; spill: what would have to wait here, too. Where to: `fallback`.
    """
    fallback: Annotated[list[Name], Field(min_length=1, max_length=32)] | None = None
    """Who answers instead, best first: other models, cloud entries, `peer/model`."""
    spill: Spill | None = None
    """Needs `cloud: spill`."""


class Key(Section):
    """A client. `sha256` is that of its key: the key itself is nowhere in this file."""

    name: Name
    sha256: Sha256
    models: list[Text] = Field(["*"], min_length=1)
    """
    Models, routes, cloud entries or aliases that it may ask for; "*" is all. Of what is not here it learns nothing: an
    alias does not give away the name behind it, nor a route its candidates.
    """
    cloud: bool = True
    """false: none of its requests leaves this machine."""
    budget: Budget | None = None
    """What its requests may cost at each upstream, beside the upstream's own budget."""
    rpm: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Requests a minute; more are answered 429 with a time to come back."""


class RegistryFile(Section):
    """The registry of a Router gateway."""

    model_config = ConfigDict(title="Router registry")

    version: Annotated[int, *quantity(_version, {"const": 1})]
    devices: Annotated[dict[Name, Device], Field(min_length=1, max_length=65)] | None = None
    """Omitted: every GPU with 80% of its memory, and half of the host's."""
    limits: Limits | None = None
    defaults: Engine | None = None
    models: Annotated[dict[Name, Model], Field(min_length=1, max_length=1000)]
    cloud: Annotated[dict[Name, Cloud], Field(min_length=1, max_length=200)] | None = None
    """Models of OpenAI-compatible endpoints. Nothing goes there that a model, a route or a client does not name."""
    peers: Annotated[dict[Name, Peer], Field(min_length=1, max_length=50)] | None = None
    """Other gateways."""
    routes: Annotated[dict[Name, Route], Field(min_length=1, max_length=200)] | None = None
    """Virtual models."""
    keys: Annotated[list[Key], Field(min_length=1)] | None = None
    """Omitted: open, on loopback addresses only."""


NOT_YET = {
    "host": "host memory for KV snapshots is not supported yet",
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
