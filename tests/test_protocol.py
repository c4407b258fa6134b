"""Frames: any split of the bytes gives the same messages, and nothing else gives any."""

from __future__ import annotations

import itertools
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import protocol
from router.domain.generation import (
    ChatPrompt,
    Delta,
    EmbeddingRequest,
    Embeddings,
    FinishReason,
    GenerationRequest,
    Message,
    TextPrompt,
    TokenPrompt,
    Usage,
)
from router.domain.models import EngineOptions, Footprint

REQUEST = GenerationRequest("1", ChatPrompt((Message("user", "Grüße 🦙"),)))

COMMANDS: tuple[protocol.Command, ...] = (
    protocol.Load("/m.gguf", EngineOptions(context=512)),
    protocol.DryRun("d", "/m.gguf", EngineOptions()),
    protocol.Generate(REQUEST),
    protocol.Generate(GenerationRequest("2", TextPrompt("x"))),
    protocol.Generate(GenerationRequest("3", TokenPrompt((1, 2)))),
    protocol.Embed(EmbeddingRequest("4", ("a", (1, 2)))),
    protocol.Cancel("1"),
    protocol.Ping(7),
    protocol.Stop(),
)

EVENTS: tuple[protocol.WorkerEvent, ...] = (
    protocol.Hello(protocol.VERSION, 42, "build", False),
    protocol.LoadProgress(0.5),
    protocol.Loaded(protocol.EngineFacts(512, 2, 100, 8, True, True), {"host": Footprint(weights=9)}),
    protocol.LoadFailed("no"),
    protocol.Freed(),
    protocol.DryRunDone("d", None, "no"),
    protocol.Step(
        (
            protocol.Piece("1", Delta("a", 1)),
            protocol.Piece("2", Delta("", 0, FinishReason.STOP, Usage(3, 1))),
        ),
        protocol.EngineGauges(slots_busy=1, steps=3),
    ),
    protocol.Failed("1", "context_overflow", "too long", "messages", 10, 20),
    protocol.Embedded("4", Embeddings((b"\0" * 4,), 1, 2)),
    protocol.PromptProgress("1", 512, 2048),
    protocol.Pong(7, 3, True),
)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.lists(st.sampled_from(EVENTS), max_size=8), st.lists(st.integers(0, 10_000), max_size=30))
def test_any_split_of_the_stream_gives_the_same_events(
    sent: list[protocol.WorkerEvent], cuts: list[int]
) -> None:
    decoder = protocol.event_decoder()
    stream = b"".join(map(protocol.encode, sent))
    assert [event for piece in pieces(stream, cuts) for event in decoder.feed(piece)] == sent


@given(st.lists(st.sampled_from(COMMANDS), max_size=8), st.lists(st.integers(0, 10_000), max_size=30))
def test_any_split_of_the_stream_gives_the_same_commands(
    sent: list[protocol.Command], cuts: list[int]
) -> None:
    decoder = protocol.command_decoder()
    stream = b"".join(map(protocol.encode, sent))
    assert [command for piece in pieces(stream, cuts) for command in decoder.feed(piece)] == sent


@given(st.text(), st.text())
def test_any_text_survives_the_way(text: str, name: str) -> None:
    command = protocol.Generate(GenerationRequest(name, TextPrompt(text)))
    assert protocol.command_decoder().feed(protocol.encode(command)) == [command]


def test_half_a_surrogate_pair_is_a_frame_error() -> None:
    with pytest.raises(protocol.FrameError, match="not Unicode"):
        protocol.encode(protocol.Cancel("\ud800"))


def test_every_command_and_event_is_in_the_samples() -> None:
    assert {type(command) for command in COMMANDS} == set(protocol.Command.__args__)
    assert {type(event) for event in EVENTS} == set(protocol.WorkerEvent.__args__)


@pytest.mark.parametrize("sent", EVENTS, ids=lambda e: type(e).__name__)
def test_a_frame_that_is_cut_gives_nothing_yet(sent: protocol.WorkerEvent) -> None:
    decoder = protocol.event_decoder()
    frame = protocol.encode(sent)
    assert decoder.feed(frame[:-1]) == []
    assert decoder.feed(frame[-1:]) == [sent]


@given(st.binary(min_size=1, max_size=200))
def test_garbage_in_a_frame_is_a_frame_error_or_a_whole_message(body: bytes) -> None:
    frame = struct.pack("<I", len(body)) + body
    try:
        (message,) = protocol.event_decoder().feed(frame)
    except protocol.FrameError:
        return
    assert isinstance(message, protocol.WorkerEvent.__args__)


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", b"hello", msgspec.msgpack.encode({"type": "no such"}), msgspec.msgpack.encode([1, 2])],
    ids=["empty", "never-msgpack", "text", "unknown-tag", "array"],
)
def test_a_frame_that_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(protocol.FrameError):
        protocol.event_decoder().feed(struct.pack("<I", len(body)) + body)


def test_a_message_of_the_other_direction_is_refused() -> None:
    with pytest.raises(protocol.FrameError):
        protocol.event_decoder().feed(protocol.encode(protocol.Ping(1)))
    with pytest.raises(protocol.FrameError):
        protocol.command_decoder().feed(protocol.encode(protocol.Pong(1, 0, False)))


def test_a_message_of_the_wrong_types_is_refused() -> None:
    body = msgspec.msgpack.encode({"type": "pong", "id": "seven", "steps": 0, "busy": False})
    with pytest.raises(protocol.FrameError, match="does not decode"):
        protocol.event_decoder().feed(struct.pack("<I", len(body)) + body)


def test_an_oversized_frame_is_refused_by_its_header_alone() -> None:
    with pytest.raises(protocol.FrameError, match=str(protocol.MAX_FRAME + 1)):
        protocol.event_decoder().feed(struct.pack("<I", protocol.MAX_FRAME + 1))


def test_a_message_too_large_for_a_frame_is_not_encoded() -> None:
    huge = protocol.Embedded("1", Embeddings((bytes(protocol.MAX_FRAME),), 1, 1))
    with pytest.raises(protocol.FrameError, match="limit"):
        protocol.encode(huge)


@pytest.mark.parametrize(
    ("told", "layers"),
    [
        ("auto", protocol.SANDBOX_LAYERS),
        ("on", protocol.SANDBOX_LAYERS),
        ("off", ()),
        ("landlock, rlimits", ("rlimits", "landlock")),
    ],
)
def test_the_sandbox_is_told_by_a_word_or_by_its_layers(told: str, layers: tuple[str, ...]) -> None:
    assert protocol.sandbox_layers(told) == layers


@pytest.mark.parametrize("told", ["", "yes", "seccomp,chroot", "off,seccomp"])
def test_a_word_that_names_no_layer_is_refused(told: str) -> None:
    with pytest.raises(ValueError, match="is none of auto, on, off, no_new_privs"):
        protocol.sandbox_layers(told)
