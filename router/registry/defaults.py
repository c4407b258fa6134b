"""
What a model says, else what the file's defaults say, else what is true of every model.

The one rule: pure; nothing here knows of files, devices or other models.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from router.domain.models import ALL_LAYERS, AUTO_LAYERS, Limits, SamplingDefaults
from router.registry import schema

PROCESS = ("context", "slots", "gpu_layers", "kv_type", "flash_attention", "ubatch")
"""Keys that force a new process when they change."""
DEFAULT_TTL = 600.0
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a model says, else what the defaults say."""

    model: schema.Model
    defaults: schema.Engine

    def chosen(self, *keys: str) -> dict[str, int | str]:
        """Only the keys that one of the two has."""
        pairs = ((key, [getattr(self.model, key), getattr(self.defaults, key)]) for key in keys)
        return {
            key: next(v for v in values if v is not None)
            for key, values in pairs
            if any(v is not None for v in values)
        }

    def ttl(self) -> float | None:
        """None is a word here: never."""
        for section in (self.model, self.defaults):
            if "ttl" in section.model_fields_set:
                return section.ttl
        return DEFAULT_TTL


def meant(layers: int | str) -> int:
    """The number for `gpu_layers`."""
    if isinstance(layers, int):
        return layers
    return AUTO_LAYERS if layers == "auto" else ALL_LAYERS


def as_written(model: schema.Model, defaults: schema.Engine | None) -> str:
    own = [getattr(model, key) for key in ("path", "sha256", *PROCESS)]
    return repr((own, [getattr(defaults, key) for key in PROCESS] if defaults else []))


def limits_of(written: schema.Limits | None) -> Limits:
    return msgspec.structs.replace(Limits(), **written.model_dump(exclude_none=True)) if written else Limits()


def params(*sections: schema.Params | None) -> SamplingDefaults:
    """Later ones win."""
    said: dict[str, object] = {}
    for section in sections:
        said |= section.model_dump(exclude_none=True) if section else {}
    if isinstance(stop := said.get("stop"), list):
        said["stop"] = tuple(stop)
    return msgspec.convert(said, SamplingDefaults)
