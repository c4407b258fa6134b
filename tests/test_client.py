from __future__ import annotations

from collections.abc import Callable

import httpx2
import pytest

from router.client import Client, GatewayRefused, GatewayUnreachable, ModelEntry, Progress, Reloaded, Running

Handler = Callable[[httpx2.Request], httpx2.Response]


def client(handler: Handler, key: str | None = None) -> Client:
    return Client("http://gateway.test/", key, transport=httpx2.MockTransport(handler))


def answering(status: int, body: object) -> Handler:
    return lambda request: httpx2.Response(status, json=body)


class FakeGateway:
    """Tells one answer of /running after the other, the last one for ever."""

    def __init__(self, *answers: dict[str, object]) -> None:
        self.answers = list(answers)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        match request.url.path:
            case "/models/load":
                return httpx2.Response(200, json={"success": True})
            case "/v1/models":
                return httpx2.Response(200, json={"data": [{"id": "other"}, {"id": "big", "aliases": ["a"]}]})
            case _:
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                return httpx2.Response(200, json={"running": [], **answer})


def load(*answers: dict[str, object]) -> list[Progress]:
    with client(FakeGateway(*answers)) as c:
        return list(c.load("a", pause=lambda: None))


def big(phase: str, progress: float = 0.0) -> dict[str, object]:
    return {"running": [{"model": "other"}, {"model": "big", "phase": phase, "progress": progress}]}


def test_the_model_list_is_handed_on_as_it_came() -> None:
    entries = [{"id": "a", "object": "model", "extra": [1]}]
    with client(answering(200, {"object": "list", "data": entries})) as c:
        assert c.models() == entries


def test_an_entry_keeps_what_the_command_line_shows() -> None:
    raw = [{"id": "a", "status": {"value": "loading", "more": 1}, "meta": {"size": 5, "n_vocab": 1}}]
    with client(answering(200, {})) as c:
        (entry,) = c.convert(raw, list[ModelEntry])
    assert (entry.status.value, entry.meta.size) == ("loading", 5)


def test_the_key_travels_as_a_bearer_token() -> None:
    seen: list[str | None] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.headers.get("authorization"))
        return httpx2.Response(200, json={"running": []})

    for key in (None, "secret"):
        with client(handler, key) as c:
            c.running()
    assert seen == [None, "Bearer secret"]


@pytest.mark.parametrize(
    ("name", "force", "asked"),
    [
        ("a", False, 'POST /models/unload {"model":"a"}'),
        ("a", True, 'POST /models/unload {"model":"a","force":true}'),
        (None, False, "GET /unload "),
        (None, True, "GET /unload?force=true "),
    ],
)
def test_unloading_asks_for_one_model_or_for_all(name: str | None, force: bool, asked: str) -> None:
    seen: list[str] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        seen.append(f"{request.method} {request.url.raw_path.decode()} {request.content.decode()}")
        return (
            httpx2.Response(200, text="OK") if name is None else httpx2.Response(200, json={"success": True})
        )

    with client(handler) as c:
        c.unload(name, force)
    assert seen == [asked]


def test_a_load_is_followed_through_waiting_and_loading_until_it_is_ready() -> None:
    assert load({}, {"waiting": {"big": 1}}, big("loading", 0.4), big("ready", 1.0)) == [
        Progress("waiting"),
        Progress("waiting"),
        Progress("loading", 0.4),
        Progress("loaded", 1.0),
    ]


def test_a_load_by_one_name_sees_the_process_that_bears_another() -> None:
    entry = {"model": "other", "names": ["other", "big"], "phase": "ready", "progress": 1.0}
    assert load({"running": [entry]}) == [Progress("loaded", 1.0)]


def test_an_old_version_that_drains_is_waited_for_without_end() -> None:
    assert load(*[big("draining")] * 40, big("ready", 1.0))[-1].stage == "loaded"


def test_a_load_that_fails_carries_the_gateways_reason() -> None:
    with pytest.raises(GatewayRefused, match="the file is truncated"):
        load(big("loading"), {"failed": {"big": "the file is truncated"}})


def test_the_reason_of_an_earlier_failure_does_not_stop_a_new_try() -> None:
    old = {"failed": {"big": "crashed"}}
    assert load(old, big("loading", 0.1), big("ready", 1.0))[-1].stage == "loaded"


def test_a_load_that_the_gateway_dropped_is_given_up() -> None:
    with pytest.raises(GatewayRefused, match="big was not loaded"):
        load({})


def test_a_refused_load_carries_the_gateways_words() -> None:
    with client(answering(503, {"error": {"message": "a needs 9 GiB"}})) as c:
        with pytest.raises(GatewayRefused, match="needs 9 GiB"):
            list(c.load("a"))


def test_an_error_answer_is_its_message() -> None:
    with client(answering(401, {"error": {"message": "bad key", "type": "x"}})) as c:
        with pytest.raises(GatewayRefused, match="bad key") as caught:
            c.models()
    assert caught.value.status == 401


@pytest.mark.parametrize("answer", [httpx2.Response(500, json={"oops": 1}), httpx2.Response(500, text="?")])
def test_an_error_without_a_message_says_what_was_asked(answer: httpx2.Response) -> None:
    with client(lambda request: answer) as c, pytest.raises(GatewayRefused, match=r"GET /running .* 500"):
        c.running()


@pytest.mark.parametrize(
    "answer",
    [httpx2.Response(200, text="<html>"), httpx2.Response(200, json=[]), httpx2.Response(200, json={})],
)
def test_something_else_behind_the_url_is_named(answer: httpx2.Response) -> None:
    with client(lambda request: answer) as c, pytest.raises(GatewayUnreachable, match="not a router gateway"):
        c.models()


def test_odd_entries_are_no_gateway_of_ours() -> None:
    with client(answering(200, {"running": [{"name": "no model"}]})) as c:
        with pytest.raises(GatewayUnreachable, match="not a router gateway"):
            c.convert(c.running(), Running)


def test_nobody_there_says_how_to_start_one() -> None:
    # Port 1 of loopback: nothing listens there, so the refusal is immediate.
    with Client("http://127.0.0.1:1") as c, pytest.raises(GatewayUnreachable, match="router serve"):
        c.models()


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://x", "http://[", "not a url"])
def test_a_url_that_is_none_is_named(url: str) -> None:
    with pytest.raises(GatewayUnreachable, match=r"no URL|no gateway"):
        with Client(url) as c:
            c.models()


def test_a_silent_gateway_is_named() -> None:
    def handler(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadTimeout("timed out", request=request)

    with client(handler) as c, pytest.raises(GatewayUnreachable, match="did not answer: timed out"):
        c.models()


def test_a_reload_hands_on_what_changed_and_what_was_refused() -> None:
    asked: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(f"{request.method} {request.url.raw_path.decode()}")
        return httpx2.Response(200, json={"outcome": "applied", "broken": {"a": "gone"}, "more": 1})

    with client(answer) as c:
        told = c.convert(c.reload(force=True), Reloaded)
        c.reload()
    assert (told.outcome, told.broken) == ("applied", {"a": "gone"})
    assert asked == ["POST /admin/reload?force=true", "POST /admin/reload"]
    refused = {"error": {"message": "r.yaml:1:1: no"}}
    with client(answering(422, refused)) as c, pytest.raises(GatewayRefused, match=r"r\.yaml:1:1: no"):
        c.reload()
