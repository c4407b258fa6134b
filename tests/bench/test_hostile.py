"""The hostile soak: its verdict on made-up records, its edits, its clients, and a short run on the echo backend."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import httpx2
import pytest

from router.registry import loader
from router.sizing import devices
from tests.bench import at_rest, hostile, hostile_clients, hostile_verdict, soak
from tests.bench.hostile_clients import Client, Piece, Plan, plan
from tests.bench.hostile_edits import BROKEN, GUEST, Edits
from tests.bench.hostile_verdict import End, Record, Sample, Seen, facts, judge, table
from tests.bench.soak_verdict import Check, Count

REST = Count(files=20, tasks=9, processes=1, threads=3)
MiB = 2**20


def seen(number: int, end: End, began: float = 10.0, pieces: int = 5) -> Seen:
    return Seen(id=f"r{number}", model="m", end=end, began=began, ended=began + 1, pieces=pieces)


def record(seconds: float = 600, grown: int = 0) -> Record:
    ends = [End.STOP, End.LENGTH, End.LENGTH, End.ERROR, End.REFUSED, End.LEFT]
    requests = [seen(number, end) for number, end in enumerate(ends)]
    labels = ["stop", "length", "length", "error", "error", "left"]
    return Record(
        seconds,
        seconds,
        requests=requests,
        kills=[500.0],
        samples=[Sample(float(at), 60 * MiB + grown * at, 20, 2) for at in range(int(seconds))],
        livez=[0.01],
        saves=10,
        broken_saves=2,
        rest=[REST, REST],
        log={each.id: label for each, label in zip(requests, labels, strict=True)},
        log_lines=600,
        counters=Counter(labels),
        applied=10,
        refused=2,
        restarts=1,
        dropped=7,
        exit_status=0,
    )


def failed(checks: list[Check]) -> list[str]:
    return [check.name for check in checks if check.passed is False]


def test_a_run_in_which_all_is_right_passes() -> None:
    checks = judge(record())
    assert all(check.passed for check in checks), [check.line() for check in checks]
    assert facts(record())["passed"]


def test_a_stream_counted_as_left_is_wrong_in_the_log_and_in_the_counters() -> None:
    made = record()
    made.log = {**made.log, "r0": "left"}
    made.counters = Counter(left=2, length=2, error=2)
    assert failed(judge(made)) == [
        "wrong finish labels in the log",
        "wrong finish labels in the counters",
    ]
    assert facts(made)["wrong"] == ["r0: stop for its client, left in the log"]
    assert facts(made)["wrong_counters"] == {"stop": -1, "left": 1}


def test_counters_are_judged_though_the_log_lost_every_line() -> None:
    made = record()
    made.log = {}
    made.counters = Counter(left=6)
    assert failed(judge(made)) == ["wrong finish labels in the counters"]


@pytest.mark.parametrize(
    ("one", "kills", "right"),
    [
        (seen(1, End.LEFT), [], {"left"}),
        (seen(1, End.LEFT, began=10), [10.5], {"left", "error"}),
        (seen(1, End.LEFT, began=10), [9.0], {"left"}),
        (seen(1, End.LEFT, pieces=0), [], {"left", "error"}),
        (seen(1, End.STOP), [10.5], {"stop"}),
        (seen(1, End.REFUSED), [], {"error"}),
        (seen(1, End.CUT), [], set()),
    ],
)
def test_only_who_left_may_not_know(one: Seen, kills: list[float], right: set[str]) -> None:
    assert hostile_verdict.right_labels(one, kills) == right


def broken(**changes: object) -> Record:
    made = record()
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("made", "names"),
    [
        (broken(requests=[*record().requests, seen(9, End.NONE)], counters=Counter(stop=1, length=2, error=3, left=1)),
         ["requests without an end"]),
        (broken(visits=[seen(9, End.CUT)]), ["requests without an end"]),
        (broken(livez=[0.01, 9.0]), ["seconds of the longest answer of /livez"]),
        (broken(dropped=None), ["things that never happened: dropped log lines"]),
        (broken(silent=1), ["probes of /livez without an answer"]),
        (broken(seconds=300.0), ["seconds that the run was cut short by"]),
        (broken(exit_status=None), ["exit status"]),
        (broken(exit_status=-9), ["exit status"]),
        (broken(refused=3), ["good edits that were refused"]),
        (broken(wrong_models=["a"]), ["models that differ from the last good registry"]),
        (broken(rest=[REST, Count(files=21, tasks=9, processes=1, threads=9)]), ["more files at rest"]),
        (broken(kills=[], restarts=0), ["things that never happened: kills, restarts"]),
        (record(grown=20 * 1024), ["bytes of memory a minute, after the first 60 s"]),
    ],
)  # fmt: skip
def test_each_fault_fails_by_its_name(made: Record, names: list[str]) -> None:
    assert failed(judge(made)) == names


def test_without_counters_nothing_is_believed() -> None:
    assert len(failed(judge(broken(counters=None)))) == 2


def test_a_run_that_was_given_up_fails_whatever_else_it_saw() -> None:
    assert not facts(broken(stalled="/livez has not answered"))["passed"]
    assert table(facts(broken(stalled="/livez has not answered")))[-2:] == [
        "given up: /livez has not answered",
        "FAILED",
    ]


def test_a_short_run_says_what_it_cannot_say() -> None:
    checks = judge(record(seconds=30, grown=MiB))
    assert failed(checks) == []
    assert [check.passed for check in checks].count(None) == 2


def test_the_facts_are_json_and_the_table_names_each_end() -> None:
    found = json.loads(json.dumps(facts(record())))
    lines = "\n".join(table(found))
    assert all(f"  {end}" in lines for end in ("stop", "length", "error", "left", "refused"))
    assert lines.endswith("passed")
    assert table(facts(Record(5.0)))[-1] == "FAILED"


# Edits --------------------------------------------------------------------------------------------------------


def test_edits_are_the_same_for_the_same_seed_and_every_text_is_what_it_says(
    model: Callable[[str], Path], tmp_path: Path
) -> None:
    files = [model("a"), model("b")]
    one, two = Edits(files, 64 * MiB, 3), Edits(files, 64 * MiB, 3)
    path, kinds = tmp_path / "registry.yaml", Counter[bool]()
    for _ in range(60):
        text, good = one.next()
        assert (text, good) == two.next()
        path.write_text(text)
        kinds[good] += 1
        if not good:
            with pytest.raises(loader.RegistryInvalid):
                loader.load(path, devices.detect(), tmp_path)
            continue
        found = loader.load(path, devices.detect(), tmp_path)
        assert set(found.models) == one.expected
        assert set(one.names) <= set(found.models) <= {*one.names, GUEST}
    assert min(kinds.values()) > 3


@pytest.mark.parametrize("text", BROKEN)
def test_each_broken_text_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(text)
    with pytest.raises(loader.RegistryInvalid):
        loader.load(path, devices.detect(), tmp_path)


# Clients ------------------------------------------------------------------------------------------------------


class Scripted(Client):
    """Its answer is a script: pieces, and what is raised or waited for after them."""

    def __init__(self, *pieces: Piece, then: Exception | None = None, waits: bool = False) -> None:
        super().__init__("scripted", "http://127.0.0.1:9", ["m"], 1, hostile_clients.clock())
        self._script, self._then, self._waits = pieces, then, waits

    async def pieces(self, id: str, chosen: Plan) -> AsyncGenerator[Piece, None]:
        for piece in self._script:
            yield piece
        if self._waits:
            await asyncio.Event().wait()
        if self._then is not None:
            raise self._then


ASK = Plan("completions", {"model": "m", "stream": True})


@pytest.mark.parametrize(
    ("client", "chosen", "end"),
    [
        (Scripted(None, "stop"), ASK, End.STOP),
        (Scripted(None, "length"), ASK, End.LENGTH),
        (Scripted(None, None), ASK, End.CUT),
        (Scripted(None, then=httpx2.ReadError("gone")), ASK, End.CUT),
        (Scripted(then=hostile_clients._Refused()), ASK, End.REFUSED),
        (Scripted(None, then=hostile_clients._Failed()), ASK, End.ERROR),
        (Scripted(None, None, waits=True), Plan("", ASK.body, leave_after=2), End.LEFT),
        (Scripted(waits=True), Plan("", ASK.body, leave_seconds=0.001), End.LEFT),
    ],
)  # fmt: skip
async def test_each_end_is_seen_as_what_it_is(client: Client, chosen: Plan, end: End) -> None:
    assert (await client.ask("r1", chosen)).end is end


async def test_a_request_without_an_end_is_given_up_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostile_clients, "HANG_SECONDS", 0.001)
    assert (await Scripted(None, waits=True).ask("r1", ASK)).end is End.NONE
    monkeypatch.undo()
    client = Scripted(None, waits=True)
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(client.ask("r2", ASK))
        await asyncio.sleep(0)
        client.give_up()
    assert asked.result().end is End.NONE


def test_plans_are_of_every_kind_and_the_same_for_the_same_seed() -> None:
    one, two = random.Random(1), random.Random(1)
    plans = [plan(one, ["a", "b"]) for _ in range(200)]
    assert plans == [plan(two, ["a", "b"]) for _ in range(200)]
    assert {each.body["model"] for each in plans} == {"a", "b"}
    assert any(each.leave_after for each in plans) and any(each.leave_seconds for each in plans)
    assert any(isinstance(each.body.get("prompt"), list) for each in plans)
    assert {each.body["stream"] for each in plans} == {True, False}


# The run ------------------------------------------------------------------------------------------------------


def test_the_log_is_read_at_one_line_a_time_until_it_is_drained() -> None:
    theirs, ours = os.pipe()
    log = hostile.SlowLog(theirs)
    lines = [json.dumps({"event": "request", "request": f"r{n}", "finish": "stop"}) for n in range(9)]
    os.write(ours, "\n".join(["no JSON", *lines, '{"cut']).encode())
    assert len(log.lines) <= 1
    log.hurry()
    os.close(ours)
    log.join()
    os.close(theirs)
    assert log.labels() == {f"r{n}": "stop" for n in range(9)}


def test_counters_of_models_that_come_and_go_are_not_counted() -> None:
    text = "\n".join(
        [
            "# TYPE router_requests counter",
            'router_requests_total{model="a",code="200",finish="stop"} 3',
            'router_requests_total{model="a",code="499",finish="left"} 1',
            'router_requests_total{model="guest",code="200",finish="stop"} 7',
            "# TYPE router_registry_reloads counter",
            'router_registry_reloads_total{outcome="refused"} 2',
            "",
        ]
    )
    found = hostile.figures(text, ["a"])
    assert found.finishes == {"stop": 3, "left": 1}
    assert found.reloads == {"refused": 2}
    assert found.total["router_requests_total"] == 11


@pytest.mark.process
def test_the_hostile_soak_runs_from_start_to_end(
    model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, seconds in (
        ("KILL_EVERY", 0.5),
        ("SAVE_EVERY", 0.4),
        ("TELL_EVERY", 1.0),
        ("APPLY_SECONDS", 1.0),
    ):
        monkeypatch.setattr(hostile, name, seconds)
    monkeypatch.setattr(at_rest, "QUIET_SECONDS", 0.5)
    files = [str(model(name)) for name in "ab"]
    found = hostile.run(soak.parse(["--hostile", "--seconds", "4", "--models", *files]), "--backend", "echo")
    assert not found["stalled"]
    assert sum(sum(labels.values()) for labels in found["ends"].values()) > 5
    assert found["saves"]["good"] + found["saves"]["broken"] > 3
    assert found["log"]["lines"] > 5
    assert found["exit_status"] == 0
    assert "/livez silent" in capsys.readouterr().err


def test_no_seconds_are_refused() -> None:
    with pytest.raises(SystemExit):
        soak.parse(["--hostile", "--seconds", "0"])
