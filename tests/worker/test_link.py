from __future__ import annotations

import socket

import pytest

from router import protocol
from router.domain.generation import Embeddings
from router.worker.link import GatewayGone, Link


def test_commands_come_until_the_gateway_closes() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(protocol.encode(protocol.Ping(1)) + protocol.encode(protocol.Cancel("x")))
        assert list(Link(theirs).commands()) == [protocol.Ping(1), protocol.Cancel("x")]


def test_events_arrive_as_frames() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        Link(theirs).send(protocol.Pong(1, 2, True))
        assert protocol.event_decoder().feed(ours.recv(1000)) == [protocol.Pong(1, 2, True)]


def test_a_send_to_a_closed_gateway_says_that_it_is_gone() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs, pytest.raises(GatewayGone, match="closed"):
        Link(theirs).send(protocol.Pong(1, 2, True))


def test_a_gateway_that_stops_reading_does_not_block_the_worker_for_ever() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(GatewayGone, match="stopped reading"):
        Link(theirs, patience=1).send(protocol.Embedded("1", Embeddings((bytes(2**24),), 1, 1)))


def test_garbage_is_a_frame_error() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"\xff" * 8)
        with pytest.raises(protocol.FrameError):
            list(Link(theirs).commands())
