"""Which pages of a browser may use a gateway without keys."""

from __future__ import annotations

import hashlib

import pytest

from router.api.errors import ForeignPage, WrongHost
from router.api.origins import check_host, check_page, problem
from router.registry.loader import Key
from tests.scene import chat_body, scene

PAGE = "http://chat.example:3000"
LOCAL = "127.0.0.1:8080"
KEYS = (Key(name="alice", sha256=hashlib.sha256(b"s3cret").hexdigest(), models=("*",)),)
PREFLIGHT = {
    "host": LOCAL,
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


@pytest.mark.parametrize(
    "host",
    [None, "localhost", "LocalHost.:8080", "127.0.0.1:8080", "127.8.0.1", "[::1]:8080", "[::1]", "gpu-box:1"],
)
def test_the_names_of_loopback_and_the_allowed_ones_are_answered(host: str | None) -> None:
    check_host(host, True, ["gpu-box"])


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "0.0.0.0",
        "",
        "[::2]",
        "::1",
    ],
)
def test_any_other_name_is_somebody_else(host: str) -> None:
    with pytest.raises(WrongHost, match="--allow-host"):
        check_host(host, True, ["gpu-box"])


def test_beyond_loopback_names_are_free_until_some_are_given() -> None:
    check_host("gpu.example", False, [])
    with pytest.raises(WrongHost):
        check_host("evil.example", False, ["gpu.example"])


@pytest.mark.parametrize(
    ("origin", "site"),
    [
        (None, None),
        (None, "same-origin"),
        (None, "none"),
        (f"http://{LOCAL}", "same-origin"),
        (PAGE, "cross-site"),
        (PAGE, None),
    ],
)
def test_programs_own_pages_and_allowed_pages_may_ask(origin: str | None, site: str | None) -> None:
    check_page(LOCAL, origin, site, [PAGE])


@pytest.mark.parametrize(
    ("origin", "site"),
    [
        ("http://evil.example", "cross-site"),
        ("http://localhost:3000", "same-site"),
        ("http://127.0.0.1:8081", None),
        ("http://127.0.0.1", None),
        ("null", None),
        (PAGE + ".evil.example", None),
        (PAGE.upper(), None),
        (None, "cross-site"),
        (None, "same-site"),
        (None, "whatever comes"),
    ],
)
def test_a_page_of_another_origin_may_not(origin: str | None, site: str | None) -> None:
    with pytest.raises(ForeignPage, match="--cors-origin"):
        check_page(LOCAL, origin, site, [PAGE])


def test_the_star_allows_every_page() -> None:
    check_page(LOCAL, "https://anything.example", "cross-site", ["*"])


@pytest.mark.parametrize(
    "origin", ["*", "https://a.example", "http://localhost:3000", "app://obsidian.md", "null"]
)
def test_an_origin_is_a_scheme_and_a_host(origin: str) -> None:
    assert problem(origin) is None


@pytest.mark.parametrize(
    "origin", ["", "a.example", "https://a.example/", "https://a.example/x", "https://", "*.a.example"]
)
def test_what_no_browser_would_send_is_no_origin(origin: str) -> None:
    assert problem(origin)


async def test_a_page_that_rebound_its_name_gets_nothing() -> None:
    async with scene() as house:
        headers = {"host": "evil.example:8080", "origin": "http://evil.example:8080"}
        for method, path in (("GET", "/v1/models"), ("GET", "/livez"), ("POST", "/v1/chat/completions")):
            call = await house.ask(method, path, chat_body(), headers=headers)
            assert (call.status, call.error["code"]) == (421, "wrong_host")
        assert not house.launcher.workers


async def test_a_page_of_another_origin_neither_generates_nor_unloads() -> None:
    async with scene() as house:
        await house.chat()
        simple = {"host": LOCAL, "origin": "http://evil.example", "content-type": "text/plain"}
        call = await house.ask("POST", "/v1/chat/completions", chat_body(), headers=simple)
        assert (call.status, call.error["code"]) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in call.headers
        image = {"host": LOCAL, "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
        assert (await house.ask("GET", "/unload", headers=image)).status == 403
        assert [i.phase for i in house.house.residency.view().instances] == ["ready"]


async def test_cors_is_off_unless_asked_for() -> None:
    async with scene() as house:
        call = await house.ask("OPTIONS", "/v1/chat/completions", headers=PREFLIGHT)
        assert call.status == 403
        assert not any(name.startswith("access-control") for name in call.headers)


async def test_an_allowed_page_may_ask_and_read_answers_and_errors() -> None:
    async with scene(cors_origins=(PAGE,)) as house:
        preflight = await house.ask("OPTIONS", "/v1/chat/completions", headers=PREFLIGHT)
        assert preflight.status == 200
        assert preflight.headers["access-control-allow-origin"] == PAGE
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        headers = {"host": LOCAL, "origin": PAGE}
        for body in (chat_body(), chat_body(stream=True), chat_body(model="nobody")):
            call = await house.ask("POST", "/v1/chat/completions", body, headers=headers)
            assert call.headers["access-control-allow-origin"] == PAGE
            assert "x-router-served-by" in call.headers["access-control-expose-headers"]
        other = await house.ask(
            "OPTIONS", "/v1/models", headers=PREFLIGHT | {"origin": "http://evil.example"}
        )
        assert other.status == 400
        assert "access-control-allow-origin" not in other.headers


async def test_with_keys_the_key_decides_and_cors_says_which_page_may_read() -> None:
    async with scene(keys=KEYS, cors_origins=(PAGE,)) as house:
        headers = {"host": "gateway.example", "origin": PAGE}
        assert (await house.ask("OPTIONS", "/v1/models", headers=PREFLIGHT)).status == 200
        refused = await house.ask("GET", "/v1/models", headers=headers)
        assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, PAGE)
        served = await house.ask("GET", "/v1/models", headers=headers | {"x-api-key": "s3cret"})
        assert served.status == 200
