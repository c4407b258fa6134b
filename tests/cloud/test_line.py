"""Against a real server: each way to fail ends as stated, within its bound."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest

from router.cloud.addresses import Addresses
from router.domain.errors import UpstreamBroken, UpstreamRefused, UpstreamUnavailable
from router.domain.upstreams import Timeouts
from tests.cloud.endpoint import (
    Answer,
    Endpoint,
    Seen,
    Send,
    authority,
    chunk,
    event,
    good,
    hang_up,
    more,
    raw_stream,
    serving,
    silence,
    start_stream,
    status,
    whole,
)
from tests.cloud.scene import Scene, call, scene

WORD = chunk("m", {"content": "word"})
HANG_SECONDS = 30.0
"""A guard, and no speed: an endpoint that is silent is so for an hour."""


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene(tmp_path) as found:
        yield found


async def drip_headers(seen: Seen, send: Send) -> None:
    await asyncio.sleep(0.2)
    await start_stream(send)
    await asyncio.sleep(3600)


async def endless_line(seen: Seen, send: Send) -> None:
    await start_stream(send)
    await more(send, b"data: ")
    for _ in range(2**30 // 2**16):
        await more(send, b"x" * 2**16)


BEFORE: list[tuple[str, Answer, str]] = [
    ("hang up", hang_up, "cut"),
    ("slow first byte", silence, "timeout"),
    ("headers and then nothing", drip_headers, "timeout"),
    ("429", status(429), "rate_limited"),
    ("500", status(500), "status"),
    ("a bad key", status(401), "setup"),
    ("an unknown model", status(404), "setup"),
    ("a bad first line", raw_stream(b"data: {nonsense\n\n"), "protocol"),
    ("a list", raw_stream(b"data: [1]\n\n"), "protocol"),
    ("an error in place of an answer", raw_stream(event({"error": {"message": "no"}})), "status"),
    ("nothing at all", raw_stream(), "cut"),
    ("no stream", status(200, {"choices": []}), "protocol"),
    ("a 1 GiB line", endless_line, "too_large"),
]


@pytest.mark.parametrize(("answer", "reason"), [c[1:] for c in BEFORE], ids=[c[0] for c in BEFORE])
async def test_before_the_first_event_another_candidate_can_take_over(
    it: Scene, answer: Answer, reason: str
) -> None:
    it.endpoint.answer = answer
    with pytest.raises(UpstreamUnavailable) as caught:
        async with asyncio.timeout(HANG_SECONDS):
            await it.ask(call())
    assert (caught.value.upstream, caught.value.reason) == ("big", reason)


AFTER: list[tuple[str, Answer, str]] = [
    ("cut", raw_stream(WORD, then="cut"), "closed the connection"),
    ("silence", raw_stream(WORD, then="silence"), "fell silent for 0.3 s"),
    ("a bad line", raw_stream(WORD, b"data: {oops\n\n", then="silence"), "not valid JSON"),
    ("an end without [DONE]", raw_stream(WORD), "in the middle"),
    ("an error event", raw_stream(WORD, event({"error": {"message": "overloaded"}})), "overloaded"),
]


@pytest.mark.parametrize(("answer", "words"), [c[1:] for c in AFTER], ids=[c[0] for c in AFTER])
async def test_after_the_first_event_it_is_broken_and_says_so(it: Scene, answer: Answer, words: str) -> None:
    it.endpoint.answer = answer
    received = []
    with pytest.raises(UpstreamBroken, match=words):
        async with asyncio.timeout(HANG_SECONDS), it.cloud.open(it.upstream, call()) as begun:
            assert begun.events is not None
            async for piece in begun.events:
                received.append(piece)
    assert received == [WORD]


async def test_a_1_gib_line_is_cut_without_growing(it: Scene) -> None:
    sent = 0

    async def endless(seen: Seen, send: Send) -> None:
        nonlocal sent
        await start_stream(send)
        await more(send, WORD + b"data: ")
        while sent < 2**30:
            await more(send, b"x" * 2**16)
            sent += 2**16

    it.endpoint.answer = endless
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UpstreamBroken, match="more than 4194304 bytes"):
        await it.ask(call())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
    assert sent < 64 * 2**20


async def test_an_answer_that_ended_well_but_without_done_gets_one(it: Scene) -> None:
    it.endpoint.answer = raw_stream(WORD, chunk("m", {}, "stop"))
    _, received = await it.ask(call())
    assert received.endswith(b"data: [DONE]\n\n")


async def test_a_refusal_is_the_upstreams_own(it: Scene) -> None:
    error = {
        "message": "This model's maximum context\nlength is 10",
        "type": "bad",
        "code": "too_long",
        "param": "messages",
    }
    it.endpoint.answer = status(400, {"error": error})
    with pytest.raises(UpstreamRefused) as caught:
        await it.ask(call())
    told = caught.value
    assert (told.status, told.type, told.code, told.param) == (400, "bad", "too_long", "messages")
    assert told.message == "This model's maximum context length is 10"


async def test_retry_after_is_kept_for_whoever_asks_next(it: Scene) -> None:
    it.endpoint.answer = status(429, retry_after="17")
    with pytest.raises(UpstreamUnavailable) as caught:
        await it.ask(call())
    assert caught.value.retry_after == 17
    with pytest.raises(UpstreamUnavailable) as again:
        await it.ask(call())
    assert again.value.reason == "open"
    assert 16 < (again.value.retry_after or 0) <= 17
    assert len(it.endpoint.seen) == 1


async def test_nobody_at_the_port_is_found_at_once(it: Scene) -> None:
    nobody = msgspec.structs.replace(it.upstream, base_url="http://127.0.0.1:9/v1")
    with pytest.raises(UpstreamUnavailable, match="cannot be reached") as caught:
        await it.ask(call(), nobody)
    assert caught.value.reason == "connect"


async def test_a_connection_that_never_comes_about_is_given_up(it: Scene) -> None:
    hung_up = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        hung_up.set()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        slow = msgspec.structs.replace(it.upstream, base_url=f"https://127.0.0.1:{port}/v1")
        with pytest.raises(UpstreamUnavailable, match=r"no connection within 0.5 s") as caught:
            async with asyncio.timeout(HANG_SECONDS):
                await it.ask(call(), slow)
        await hung_up.wait()
    assert caught.value.reason == "timeout"


async def test_a_redirect_is_not_followed(it: Scene) -> None:
    async with serving(Endpoint()) as elsewhere:
        it.endpoint.answer = status(307, location=f"{elsewhere.url}/chat/completions")
        with pytest.raises(UpstreamUnavailable, match="redirect") as caught:
            await it.ask(call())
    assert (caught.value.reason, elsewhere.seen) == ("setup", [])


async def test_an_answer_that_is_too_long_is_cut(it: Scene) -> None:
    async def long(seen: Seen, send: Send) -> None:
        await whole(send, b'{"a": "' + b"x" * (65 * 2**20) + b'"}')

    it.endpoint.answer = long
    patient = msgspec.structs.replace(it.upstream, timeouts=Timeouts())
    with pytest.raises(UpstreamUnavailable) as caught:
        await it.ask(call(stream=False), patient)
    assert caught.value.reason == "too_large"


async def test_a_packed_answer_is_not_unpacked(it: Scene) -> None:
    it.endpoint.answer = status(200, {"a": 1}, content_encoding="gzip")
    with pytest.raises(UpstreamUnavailable, match="packed"):
        await it.ask(call(stream=False))
    assert it.endpoint.seen[0].headers["accept-encoding"] == "identity"


async def test_a_long_answer_has_no_limit_as_a_whole(it: Scene) -> None:
    it.endpoint.answer = good(["word"] * 8, pause=0.15)
    _, received = await it.ask(call())
    assert received.count(b"word") == 8


# Whose certificate, and where --------------------------------------------------------------------------------


def box(hosts: dict[str, Sequence[str]]) -> Addresses:
    async def lookup(host: str, port: int) -> Sequence[str]:
        return hosts[host]

    return Addresses(lookup)


async def test_a_certificate_is_that_of_the_name_though_the_address_is_what_is_dialled(
    tmp_path: Path,
) -> None:
    trusted, file = authority(tmp_path)
    addresses = box({"box.test": ["127.0.0.1"], "other.test": ["127.0.0.1"]})
    async with (
        scene(tmp_path, addresses=addresses) as it,
        serving(Endpoint(), trusted, "box.test") as endpoint,
    ):
        upstream = msgspec.structs.replace(it.upstream, base_url=endpoint.url, ca_file=file)
        _, received = await it.ask(call(), upstream)
        assert b"[DONE]" in received
        assert endpoint.seen[0].headers["host"] == endpoint.url.split("/")[2]
        other = msgspec.structs.replace(upstream, base_url=endpoint.url.replace("box.test", "other.test"))
        with pytest.raises(UpstreamUnavailable, match="Hostname mismatch") as caught:
            await it.ask(call(), other)
    assert (caught.value.reason, len(endpoint.seen)) == ("tls", 1)


async def test_a_certificate_of_nobody_we_know_is_refused(tmp_path: Path) -> None:
    stranger, _ = authority(tmp_path)
    (tmp_path / "ours").mkdir()
    _, file = authority(tmp_path / "ours")
    async with scene(tmp_path) as it, serving(Endpoint(), stranger, "127.0.0.1") as endpoint:
        for trusted in (file, None):
            upstream = msgspec.structs.replace(
                it.upstream, name=f"x{trusted}", base_url=endpoint.url, ca_file=trusted
            )
            with pytest.raises(UpstreamUnavailable, match="cannot be trusted") as caught:
                await it.ask(call(), upstream)
            assert caught.value.reason == "tls"
    assert endpoint.seen == []


async def test_a_missing_file_of_certificates_is_named_as_that(it: Scene) -> None:
    url = it.endpoint.url.replace("http:", "https:")
    upstream = msgspec.structs.replace(it.upstream, base_url=url, ca_file="/nowhere/ca.pem")
    with pytest.raises(UpstreamUnavailable, match="ca_file cannot be read"):
        await it.ask(call(), upstream)


@pytest.mark.parametrize(
    "url", ["https://box.test:{port}/v1", "https://127.0.0.1:{port}/v1", "http://127.0.0.1:{port}/v1"]
)
async def test_private_addresses_are_refused_unless_allowed_by_name_or_by_number(
    tmp_path: Path, url: str
) -> None:
    async with scene(tmp_path, addresses=box({"box.test": ["127.0.0.1", "10.0.0.7"]})) as it:
        port = it.endpoint.url.split(":")[2].split("/")[0]
        upstream = msgspec.structs.replace(it.upstream, base_url=url.format(port=port), allow_private=False)
        with pytest.raises(UpstreamUnavailable) as caught:
            await it.ask(call(), upstream)
    assert (caught.value.reason, it.endpoint.seen) == ("address", [])


async def test_http_is_not_spoken_to_a_public_address_even_where_private_ones_are_allowed(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, addresses=box({"box.test": ["8.8.8.8"]})) as it:
        upstream = msgspec.structs.replace(it.upstream, base_url="http://box.test/v1")
        with pytest.raises(UpstreamUnavailable) as caught:
            await it.ask(call(), upstream)
    assert caught.value.reason == "address"


async def test_the_next_address_is_tried_when_one_does_not_answer(tmp_path: Path) -> None:
    async with scene(tmp_path, addresses=box({"box.test": ["127.0.0.2", "127.0.0.1"]})) as it:
        url = it.endpoint.url.replace("127.0.0.1", "box.test")
        _, received = await it.ask(call(), msgspec.structs.replace(it.upstream, base_url=url))
    assert b"[DONE]" in received


async def test_an_address_that_swallows_all_leaves_time_for_the_next(tmp_path: Path) -> None:
    ca, file = authority(tmp_path)
    hung_up = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        hung_up.set()

    async with serving(Endpoint(), ca, "box.test") as there:
        port = int(there.url.split(":")[2].split("/")[0])
        async with await asyncio.start_server(mute, "127.0.0.2", port):
            async with scene(tmp_path, addresses=box({"box.test": ["127.0.0.2", "127.0.0.1"]})) as it:
                upstream = msgspec.structs.replace(it.upstream, base_url=there.url, ca_file=file)
                _, received = await it.ask(call(), upstream)
                await hung_up.wait()
    assert b"[DONE]" in received


async def test_neither_proxies_nor_certificates_of_the_environment_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(Endpoint()) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        async with scene(tmp_path) as it:
            await it.ask(call())
    assert (len(it.endpoint.seen), proxy.seen) == (1, [])


async def test_a_cookie_is_neither_kept_nor_sent(it: Scene) -> None:
    it.endpoint.answer = status(200, {"choices": []}, set_cookie="a=b")
    await it.ask(call(stream=False))
    await it.ask(call(stream=False))
    assert [set(seen.headers) for seen in it.endpoint.seen] == [
        {"host", "user-agent", "accept", "accept-encoding", "content-type", "content-length"}
    ] * 2
