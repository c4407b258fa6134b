"""The parts of the composition root that decide something; the whole is driven in tests/e2e."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from router import bootstrap
from router.bootstrap import CannotServe, Ends, check_open, check_origins, listen, spare_the_collector
from router.domain.models import Limits, LocalModel
from router.registry.loader import Key, Registry
from router.settings import Settings

KEY = Key(name="alice", sha256="0" * 64, models=("*",))


def registry(*models: LocalModel, keys: tuple[Key, ...] = ()) -> Registry:
    return Registry(
        path=Path("registry.yaml"),
        models={m.name: m for m in models},
        aliases={},
        budgets={"host": 100},
        keys=keys,
        limits=Limits(),
        warnings=(),
    )


def test_what_was_there_at_the_start_is_not_searched_for_garbage_again() -> None:
    before = gc.get_freeze_count()
    try:
        spare_the_collector()
        assert gc.get_freeze_count() > before + 1000
    finally:
        gc.unfreeze()


def test_a_port_in_use_says_which_and_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotServe, match=f"port {port} .* --port"):
            listen("127.0.0.1", port)


def test_an_address_of_another_machine_is_refused_in_words() -> None:
    with pytest.raises(CannotServe, match=r"cannot listen on 192\.0\.2\.1 port 1234"):
        listen("192.0.2.1", 1234)


async def test_a_small_event_is_sent_at_once_whatever_was_acknowledged() -> None:
    delays: list[int] = []

    async def accepted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ours = writer.get_extra_info("socket")
        delays.append(ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()
        await writer.wait_closed()

    listener = listen("127.0.0.1", 0)
    async with await asyncio.start_server(accepted, sock=listener):
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        await reader.read()
        writer.close()
        await writer.wait_closed()
    assert delays == [1]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "localhost", "::1"])
def test_loopback_needs_no_keys(host: str) -> None:
    check_open(Settings(registry=Path(), host=host), registry())


def test_other_addresses_need_keys_or_a_word_from_the_operator() -> None:
    with pytest.raises(CannotServe, match="keys"):
        check_open(Settings(registry=Path(), host="0.0.0.0"), registry())
    check_open(Settings(registry=Path(), host="0.0.0.0"), registry(keys=(KEY,)))
    check_open(Settings(registry=Path(), host="0.0.0.0", allow_open=True), registry())


def test_an_origin_that_no_browser_sends_is_refused_at_the_start() -> None:
    check_origins(Settings(registry=Path(), cors_origins=("https://chat.example", "*")))
    with pytest.raises(CannotServe, match=r"--cors-origin 'https://chat\.example/' is no origin"):
        check_origins(Settings(registry=Path(), cors_origins=("https://chat.example/",)))


async def test_the_first_signal_asks_and_the_second_hurries() -> None:
    ends = Ends()
    with ends.installed():
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(ends.asked.wait(), 5)
        assert not ends.at_once.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.wait_for(ends.at_once.wait(), 5)


async def test_a_hang_up_is_kept_for_whoever_reloads_and_means_nothing_afterwards() -> None:
    before = signal.getsignal(signal.SIGHUP)
    ends = Ends()
    try:
        with ends.reloads():
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.wait_for(ends.reload.wait(), 5)
        os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not ends.asked.is_set()


def test_the_gateway_runs_on_uvloop_and_without_it_on_asyncios_own(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = bootstrap._loop_factory()()
    loop.close()
    assert type(loop).__module__ == "uvloop"
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert bootstrap._loop_factory() is asyncio.new_event_loop
