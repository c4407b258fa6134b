"""What other gateways have in memory, as last heard."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from router.domain.errors import UpstreamUnavailable
from router.domain.upstreams import Upstream
from router.routing.peers import POLL_SECONDS, STALE_SECONDS, Peers

BOX = Upstream("box/a", "http://10.0.0.2/v1", "a", peer=True)
BOX_B = Upstream("box/b", "http://10.0.0.2/v1", "b", peer=True)
OTHER = Upstream("other/a", "http://10.0.0.3/v1", "a", peer=True)
CLOUD = Upstream("big", "https://api.example.com/v1", "gpt")


class Fleet:
    """The peers, and a clock that only the test moves."""

    def __init__(self) -> None:
        self.upstreams = [BOX, BOX_B, OTHER, CLOUD]
        self.models = {BOX.base_url: {"a": "loaded", "b": "unloaded"}, OTHER.base_url: {"a": "loading"}}
        self.asked: list[str] = []
        self.now = 0.0
        self.peers = Peers(self.look, lambda: self.upstreams, lambda: self.now, self.pause)

    async def look(self, upstream: Upstream) -> dict[str, str]:
        self.asked.append(upstream.base_url)
        if upstream.base_url not in self.models:
            raise UpstreamUnavailable("down", upstream.name, "connect")
        return self.models[upstream.base_url]

    async def pause(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= 3 * POLL_SECONDS:
            raise asyncio.CancelledError


async def test_one_look_at_a_peer_tells_of_all_its_models() -> None:
    fleet = Fleet()
    assert fleet.peers.status(BOX) == ""
    await fleet.peers.round()
    assert sorted(fleet.asked) == [BOX.base_url, OTHER.base_url]
    assert [fleet.peers.status(u) for u in (BOX, BOX_B, OTHER, CLOUD)] == [
        "loaded",
        "unloaded",
        "loading",
        "",
    ]


async def test_a_peer_that_does_not_answer_is_not_believed_any_more() -> None:
    fleet = Fleet()
    await fleet.peers.round()
    del fleet.models[BOX.base_url]
    await fleet.peers.round()
    assert (fleet.peers.status(BOX), fleet.peers.status(OTHER)) == ("", "loading")


async def test_what_was_not_heard_lately_is_not_believed() -> None:
    fleet = Fleet()
    await fleet.peers.round()
    fleet.now = STALE_SECONDS
    assert fleet.peers.status(BOX) == "loaded"
    fleet.now += 0.1
    assert fleet.peers.status(BOX) == ""


async def test_an_edit_of_the_registry_counts_from_the_next_round() -> None:
    fleet = Fleet()
    await fleet.peers.round()
    fleet.upstreams = [OTHER]
    await fleet.peers.round()
    assert fleet.asked.count(BOX.base_url) == 1
    assert fleet.peers.status(BOX) == ""


async def test_it_looks_again_and_again_and_never_without_a_pause() -> None:
    fleet = Fleet()
    with contextlib.suppress(asyncio.CancelledError):
        await fleet.peers.watch()
    assert fleet.asked.count(BOX.base_url) == 3


async def test_a_bug_in_a_look_costs_the_knowledge_of_one_peer_and_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fleet = Fleet()
    await fleet.peers.round()
    look = fleet.look

    async def broken(upstream: Upstream) -> dict[str, str]:
        if upstream is OTHER:
            raise KeyError("bug")
        return await look(upstream)

    fleet.peers._look = broken
    await fleet.peers.round()
    assert (fleet.peers.status(BOX), fleet.peers.status(OTHER)) == ("loaded", "")
    assert "KeyError" in "".join(capsys.readouterr())
