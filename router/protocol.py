"""
What gateway and worker say to each other over one socketpair.

A frame is a little-endian uint32 length and that many bytes of msgpack, at most MAX_FRAME. Invariants:

* The worker speaks first, once: `Hello`. A wrong `version` is refused by the gateway.
* At most one `Load` in the life of a worker; it ends in `Loaded` or `LoadFailed`.
* Every `Generate` ends in exactly one final event: a `Step` delta with a finish reason, or `Failed`.
* `PromptProgress` comes only before the first delta of its generation, at most four times a second.
* Every `Embed` ends in exactly one `Embedded` or `Failed`; every `DryRun` in one `DryRunDone`.
* `Cancel` ends the generation with `Failed(kind="cancelled")` unless its final event is already on its way;
  of an unknown id it is no error and has no answer.
* Every `Ping` is answered by `Pong` from the intake thread, `steps` telling whether the step thread moves and
  `unread` whether prompts are read.
* `Stop` ends in `Freed`, if a model was loaded, and EOF.
* EOF means that the other side is gone: the worker exits, the gateway fails every open request.
"""

from __future__ import annotations

import struct
from typing import Generic, Literal, TypeVar

import msgspec

from router.domain.generation import Delta, EmbeddingRequest, Embeddings, GenerationRequest
from router.domain.models import EngineOptions, Footprint

VERSION = 3
MAX_FRAME = 64 * 2**20
SANDBOX_LAYERS = ("no_new_privs", "rlimits", "seccomp", "landlock")
_HEADER = struct.Struct("<I")

# Gateway -> worker ----------------------------------------------------------------------------------------


class Load(msgspec.Struct, frozen=True, tag="load"):
    """Load this file. `backend` is "llama" or "echo" (tests: no model, scripted by `path`)."""

    path: str
    options: EngineOptions
    backend: Literal["llama", "echo"] = "llama"
    host_bytes: int = 0
    """What is reserved for it of the host's memory: the worker bounds itself by that."""


class DryRun(msgspec.Struct, frozen=True, tag="dry_run"):
    """Ask llama.cpp what it would allocate; nothing is allocated. Only before a `Load`."""

    id: str
    path: str
    options: EngineOptions


class Generate(msgspec.Struct, frozen=True, tag="generate"):
    request: GenerationRequest


class Embed(msgspec.Struct, frozen=True, tag="embed"):
    request: EmbeddingRequest


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    id: str


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    id: int


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Free everything, say `Freed`, and exit 0; running generations are dropped."""


Command = Load | DryRun | Generate | Embed | Cancel | Ping | Stop

# Worker -> gateway ----------------------------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    version: int
    pid: int
    build: str
    """The engine's build, part of the key under which dry runs are cached."""
    gpu_offload: bool
    sandbox: tuple[str, ...] = ()
    """The layers that were seen to hold. Landlock closes the other files once the model is named."""


class LoadProgress(msgspec.Struct, frozen=True, tag="load_progress"):
    """`fraction` of the weights read, 0 to 1. Sent at most every 50 ms."""

    fraction: float


class EngineFacts(msgspec.Struct, frozen=True):
    """What the loaded model turned out to be."""

    context: int
    """Tokens of one slot."""
    slots: int
    vocabulary: int
    embedding_dimensions: int
    has_chat_template: bool
    can_generate: bool


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    facts: EngineFacts
    resident: dict[str, Footprint]
    """By device name; measured by the worker from llama.cpp's own buffers."""
    mapped: int = 0
    """Bytes of the host's weights that are read from the mapped file: not private memory of the worker."""


class LoadFailed(msgspec.Struct, frozen=True, tag="load_failed"):
    message: str
    out_of_memory: bool = False
    """True when it was memory that lacked: the same load may pass once there is more."""


class DryRunDone(msgspec.Struct, frozen=True, tag="dry_run_done"):
    """
    `footprints`, by device name, is None when there are none; `message` says why.

    `refused`: the engine does not run this file with these options, whatever memory there is. Otherwise the dry run
    could not be had, and says nothing about the model.
    """

    id: str
    footprints: dict[str, Footprint] | None
    message: str = ""
    refused: bool = False


class Freed(msgspec.Struct, frozen=True, tag="freed"):
    """Context and model are freed; the process exits next. Not sent when a load was cut short."""


class Piece(msgspec.Struct, frozen=True):
    id: str
    delta: Delta


class EngineGauges(msgspec.Struct, frozen=True):
    """The state of the engine after a step; counters run from the start of the worker."""

    slots_busy: int = 0
    kv_cells_used: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


class Step(msgspec.Struct, frozen=True, tag="step"):
    """One decode step: the deltas of all its sequences in one frame."""

    pieces: tuple[Piece, ...]
    gauges: EngineGauges


class PromptProgress(msgspec.Struct, frozen=True, tag="prompt_progress"):
    """`read` of the `total` tokens of a generation's prompt are in its slot."""

    id: str
    read: int
    total: int


FailureKind = Literal["invalid", "context_overflow", "cancelled", "engine"]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The end of one request. `context`, `prompt_tokens` and `most` go with context_overflow, `param` with both."""

    id: str
    kind: FailureKind
    message: str
    param: str | None = None
    context: int = 0
    prompt_tokens: int = 0
    most: int | None = None


class Embedded(msgspec.Struct, frozen=True, tag="embedded"):
    id: str
    embeddings: Embeddings


class Pong(msgspec.Struct, frozen=True, tag="pong"):
    id: int
    steps: int
    busy: bool
    """True when the engine holds running sequences, so that `steps` ought to grow."""
    unread: tuple[str, ...] = ()
    """Requests whose prompts are being read, then those that wait for it: the first ought to change."""


WorkerEvent = (
    Hello
    | LoadProgress
    | Loaded
    | LoadFailed
    | DryRunDone
    | Freed
    | Step
    | PromptProgress
    | Failed
    | Embedded
    | Pong
)


def sandbox_layers(told: str) -> tuple[str, ...]:
    """
    What `--sandbox` asks for: "auto" (all that the kernel has), "on" (all, or no worker starts), "off", or some
    by name, with commas. Raises ValueError, naming the word that it does not know.
    """
    if told in ("auto", "on"):
        return SANDBOX_LAYERS
    names = [] if told == "off" else [name.strip() for name in told.split(",")]
    if unknown := [name for name in names if name not in SANDBOX_LAYERS]:
        raise ValueError(f"{unknown[0]!r} is none of auto, on, off, {', '.join(SANDBOX_LAYERS)}")
    return tuple(layer for layer in SANDBOX_LAYERS if layer in names)


# Frames ---------------------------------------------------------------------------------------------------

_encoder = msgspec.msgpack.Encoder()
T = TypeVar("T")


class FrameError(Exception):
    """A frame that is too long, or that does not decode or encode: the other side is not what we think it is."""


def encode(message: Command | WorkerEvent) -> bytes:
    """One whole frame. Raises FrameError above MAX_FRAME, and for text with lone surrogates."""
    try:
        body = _encoder.encode(message)
    except UnicodeEncodeError as error:
        raise FrameError(f"text that is not Unicode: {error.reason}") from error
    if len(body) > MAX_FRAME:
        raise FrameError(f"a frame of {len(body)} bytes; the limit is {MAX_FRAME}")
    return _HEADER.pack(len(body)) + body


class FrameDecoder(Generic[T]):
    """Bytes in, messages out, no I/O. `feed` raises FrameError and is of no further use after it."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[T]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[T]:
        self._buffer += data
        messages: list[T] = []
        start = 0
        while len(self._buffer) - start >= _HEADER.size:
            (length,) = _HEADER.unpack_from(self._buffer, start)
            if length > MAX_FRAME:
                raise FrameError(f"a frame of {length} bytes; the limit is {MAX_FRAME}")
            end = start + _HEADER.size + length
            if len(self._buffer) < end:
                break
            messages.append(self._decode(bytes(self._buffer[start + _HEADER.size : end])))
            start = end
        del self._buffer[:start]
        return messages

    def _decode(self, body: bytes) -> T:
        try:
            return self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FrameError(f"a frame that does not decode: {error}") from error


def command_decoder() -> FrameDecoder[Command]:
    """For the worker."""
    return FrameDecoder(msgspec.msgpack.Decoder(Command))


def event_decoder() -> FrameDecoder[WorkerEvent]:
    """For the gateway."""
    return FrameDecoder(msgspec.msgpack.Decoder(WorkerEvent))
