"""What a model is, once the registry has understood it. Values only: constant once made."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from router.domain.routes import CloudMode, Spill

KvType = Literal["f16", "q8_0", "q4_0"]
FlashAttention = Literal["auto", "on", "off"]

ALL_LAYERS = -1
"""`EngineOptions.gpu_layers`: every layer on the device."""
AUTO_LAYERS = -2
"""As many as fit: what a registry means, never what an engine is told."""


class Footprint(msgspec.Struct, frozen=True):
    """Bytes of ONE device's memory that one resident model holds."""

    weights: int = 0
    kv_cache: int = 0
    compute: int = 0
    overhead: int = 0
    """What the process costs beside llama.cpp's own buffers (CUDA context, interpreter)."""

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.compute + self.overhead


def together(footprints: Iterable[Footprint]) -> Footprint:
    """The footprints of several devices added up, kind by kind."""
    found = list(footprints)
    return Footprint(
        sum(f.weights for f in found),
        sum(f.kv_cache for f in found),
        sum(f.compute for f in found),
        sum(f.overhead for f in found),
    )


class EngineOptions(msgspec.Struct, frozen=True):
    """What forces a new process when it changes."""

    context: int = 4096
    """Tokens that one slot can hold; the KV cache has `context * slots` cells."""
    slots: int = 4
    gpu_layers: int = ALL_LAYERS
    kv_type: KvType = "f16"
    flash_attention: FlashAttention = "auto"
    ubatch: int = 512
    """Tokens of one micro-batch: the unit of prefill."""
    devices: tuple[str, ...] = ()
    """Where the layers go, by name ("gpu0"); empty = where llama.cpp puts them by itself."""
    split: tuple[float, ...] = ()
    """The share of the layers that each of `devices` gets; empty = all on the first."""


class Placement(msgspec.Struct, frozen=True):
    """One way to hold a model: what the engine is told, and what that takes of each device."""

    engine: EngineOptions
    """The registry's options with `gpu_layers`, `devices` and `split` resolved."""
    footprints: dict[str, Footprint]
    """By device name: "gpu0", "gpu1", "host"."""
    warning: str | None = None
    """What an operator should know of this way; None when there is nothing."""
    measured: dict[str, Footprint] = {}
    """The most that a worker was seen to hold; empty before the first load."""
    exact: bool = False
    """True when `footprints` are the engine's own or `measured` is there; else they are the formula's: at most so much."""

    @property
    def bytes(self) -> dict[str, int]:
        """What to reserve: as measured where it was, else as estimated."""
        return {device: held.total for device, held in (self.footprints | self.measured).items()}

    def charged(self, measured: Mapping[str, Footprint]) -> dict[str, int]:
        """
        What to book once a worker measured itself. What it did not count is charged as estimated: a device that
        it says nothing of, and the process's overhead where it counted only llama.cpp's buffers.
        """
        booked = dict(self.bytes)
        for device, held in measured.items():
            estimated = self.footprints.get(device, Footprint())
            booked[device] = held.total + (0 if held.overhead else estimated.overhead)
        return booked


class FileIdentity(msgspec.Struct, frozen=True):
    """Which bytes a path named when the registry was read (`os.stat`)."""

    device: int = 0
    inode: int = 0
    size: int = 0
    modified_ns: int = 0


class ModelCard(msgspec.Struct, frozen=True):
    """What the GGUF header says of the model, for people and for `/v1/models`."""

    architecture: str = "unknown"
    name: str = ""
    quantization: str = "unknown"
    parameters: int = 0
    context_train: int = 0
    file_bytes: int = 0
    layers: int = 0
    pooled: bool = False
    """True when the model carries a pooling type of its own: it embeds and does not generate."""


class SamplingDefaults(msgspec.Struct, frozen=True):
    """The registry's `params`: what a request gets that does not say otherwise. None = not set."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] | None = None


class LocalModel(msgspec.Struct, frozen=True):
    """One local model of the registry, resolved: path absolute, placements known, defaults filled in."""

    name: str
    path: str
    placements: tuple[Placement, ...]
    """The ways to hold it, best first; never empty."""
    engine: EngineOptions = EngineOptions()
    """As the registry means it: what the fingerprint is made of. A worker gets its placement's."""
    file: FileIdentity = FileIdentity()
    card: ModelCard = ModelCard()
    aliases: tuple[str, ...] = ()
    pinned: bool = False
    preload: bool = False
    ttl: float | None = 600.0
    """Seconds of idleness after which the model is unloaded; None = never."""
    priority: int = 0
    params: SamplingDefaults = SamplingDefaults()
    sha256: str | None = None
    cloud: CloudMode = "never"
    fallback: tuple[str, ...] = ()
    """Names of models and upstreams that answer instead, best first."""
    spill: Spill | None = None
    """Set if and only if `cloud` is spill."""
    problem: str | None = None
    """Why the model cannot be loaded as the registry names it (a missing file, say); None when it can."""

    @property
    def footprint(self) -> Footprint:
        """Of the best placement, its devices added up: for people."""
        return together(self.placements[0].footprints.values())

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints can share one process: pinned, ttl, aliases and params stay out of it."""
        return _fingerprint(self.path, self.file, self.engine, self.sha256)


@functools.lru_cache(maxsize=4096)
def _fingerprint(path: str, file: FileIdentity, engine: EngineOptions, sha256: str | None) -> str:
    return hashlib.blake2s(msgspec.json.encode((path, file, engine, sha256)), digest_size=8).hexdigest()


class Limits(msgspec.Struct, frozen=True):
    """How long and how many may wait for memory. Seconds and counts; the registry's `limits:`."""

    max_waiting: int = 256
    """Requests that may wait in all."""
    max_waiting_per_model: int = 64
    max_wait: float = 300.0
    """The longest a request may wait for a lease, unless it says otherwise."""
    patience: float = 10.0
    """How long the head of the queue lets a busy model run on before it is drained."""
    hold: float = 2.0
    """The least time a model stays after it was loaded while others want its memory."""
    hold_factor: float = 2.0
    """It stays at least so many times as long as its load took, but for this never beyond `patience`."""
    aging: float = 10.0
    """A request is served as if it had come so many seconds earlier for each point of its priority."""
    eviction: Literal["cost", "lru"] = "cost"
    """Who goes of several: the cheapest to do without, or the least recently used."""
    backoff: float = 5.0
    """The first pause after a failed load; it doubles up to `backoff_max`."""
    backoff_max: float = 300.0
    failures: int = 3
    """This many failures within `failure_window` make a model failed: refused at once until the pause ends."""
    failure_window: float = 60.0
