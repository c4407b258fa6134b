"""A canary key through every path: it reaches the endpoint it is for, and nothing else."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import structlog

from router.api import errors as table
from router.domain.errors import RouterError, UpstreamUnavailable
from router.domain.upstreams import KeySource
from router.telemetry import configure_logging
from tests.cloud.endpoint import Answer, event, good, hang_up, raw_stream, silence, status
from tests.cloud.scene import call, scene

CANARY = "sk-canary-7f3a9"
ECHO = {"error": {"message": f"bad key {CANARY}", "type": CANARY, "code": CANARY, "param": CANARY}}

PATHS: dict[str, Answer] = {
    "good": good(),
    "refused": status(400, ECHO),
    "key refused": status(401, ECHO),
    "limited": status(429, ECHO, retry_after="1"),
    "failed": status(500, ECHO),
    "redirected": status(302, ECHO, location=f"https://evil.test/?{CANARY}"),
    "silent": silence,
    "hung up": hang_up,
    "error in place of an answer": raw_stream(event(ECHO)),
    "error event": raw_stream(event({"choices": []}), event(ECHO)),
    "nonsense": raw_stream(f"data: {CANARY}\n\n".encode()),
    "cut": raw_stream(event({"choices": []}), then="cut"),
}


@pytest.fixture
def everything_is_logged() -> Iterator[None]:
    configure_logging("debug", json=True)
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("everything_is_logged")
@pytest.mark.parametrize("answer", PATHS.values(), ids=PATHS.keys())
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_g19_a_key_is_in_no_error_no_log_no_metric_no_repr(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    answer: Answer,
    stream: bool,
) -> None:
    monkeypatch.setenv("BIG_KEY", CANARY)
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    async with scene(tmp_path) as it:
        it.endpoint.answer = answer
        upstream = msgspec.structs.replace(it.upstream, api_key=KeySource("env", "BIG_KEY"))
        try:
            said.append(repr((await it.ask(call(stream), upstream))[0]))
        except RouterError as error:
            said += traceback.format_exception(error)
            said.append(repr(table.envelope(error, "r1")))
        said += [repr(it.cloud.views()), it.metrics.render().decode(), repr(upstream)]
    assert {seen.headers["authorization"] for seen in it.endpoint.seen} == {f"Bearer {CANARY}"}
    own = [record.getMessage() for record in caplog.records if not record.name.startswith("uvicorn")]
    assert CANARY not in "".join([*said, *own, *capsys.readouterr()])


async def test_where_a_key_should_be_is_told_to_the_operator_and_not_to_the_client(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("info", json=True)
    async with scene(tmp_path) as it:
        place = str(tmp_path / "no-such-key")
        upstream = msgspec.structs.replace(it.upstream, api_key=KeySource("file", place))
        with pytest.raises(UpstreamUnavailable) as caught:
            await it.ask(call(), upstream)
    structlog.reset_defaults()
    assert place not in str(table.envelope(caught.value, "r1"))
    assert place in "".join([*caplog.messages, *capsys.readouterr()])


async def test_a_key_goes_only_to_the_upstream_it_is_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIG_KEY", CANARY)
    async with scene(tmp_path) as it:
        await it.ask(call())
    assert CANARY not in repr(it.endpoint.seen)
