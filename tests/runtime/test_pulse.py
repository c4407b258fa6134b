from __future__ import annotations

import inspect

import pytest

from router import protocol
from router.runtime.launcher import ProcessLauncher
from router.runtime.pulse import Pulse, Watch
from tests.runtime.fakes import FakeProcess

IDLE = protocol.Pong(1, 7, False)
STUCK = protocol.Pong(1, 7, True)


class Clock:
    """Beats of one second; `cpu` is the share of a processor that the worker uses meanwhile."""

    def __init__(self, pulse: Pulse) -> None:
        self.pulse = pulse
        self.used = 0.0

    def beats(
        self, pong: protocol.Pong | None, most: int = 10_000, cpu: float = 0.0
    ) -> tuple[int, str | None]:
        """How many until there is a complaint, and the complaint."""
        for beat in range(1, most + 1):
            self.used += cpu
            complaint = self.pulse.complaint(pong, self.used)
            if complaint is not None:
                return beat, complaint
        return most, None


def clock(hang: float = 30.0, on_device: bool = False) -> Clock:
    clock = Clock(Pulse(1.0, hang, on_device=on_device))
    clock.beats(IDLE, 1)
    return clock


def test_g11_a_deaf_worker_that_sleeps_is_hung_after_four_beats() -> None:
    assert clock().beats(None) == (4, "no answer to a ping for 4 s")


def test_g11_with_what_is_shipped_a_deaf_worker_is_hung_within_five_seconds() -> None:
    """The beat under way when it fell silent, and those that are missed."""
    shipped = inspect.signature(ProcessLauncher).parameters
    beat, deaf = shipped["beat"].default, shipped["deaf_seconds"].default
    watched = Clock(Pulse(beat, 30.0, deaf))
    watched.beats(IDLE, 1)
    assert (watched.beats(None)[0] + 1) * beat <= 5


def test_one_answer_is_enough_to_be_heard() -> None:
    told = clock()
    for _ in range(5):
        assert told.beats(None, 3) == (3, None)
        assert told.beats(IDLE, 1) == (1, None)


def test_a_deaf_worker_that_computes_gets_ten_times_as_long() -> None:
    """A prompt of a megabyte is tokenised by the very thread that answers pings."""
    assert clock().beats(None, cpu=0.5)[0] in (40, 41)


def test_a_busy_worker_without_a_step_is_hung_after_thirty_beats() -> None:
    told = clock()
    assert told.beats(STUCK, cpu=0.0) == (30, "no decode step for 30 s")


@pytest.mark.parametrize(("on_device", "beats"), [(False, 300), (True, 30)])
def test_a_step_that_computes_gets_ten_times_as_long_unless_a_device_does_the_work(
    on_device: bool, beats: int
) -> None:
    assert abs(clock(on_device=on_device).beats(STUCK, cpu=1.0)[0] - beats) <= 1


def test_twenty_steps_of_its_usual_length_are_waited_for() -> None:
    told = clock(on_device=True)
    steps = 7
    for _ in range(30):  # a step takes three beats
        for _ in range(2):
            assert told.beats(protocol.Pong(1, steps, True), 1)[1] is None
        steps += 1
        assert told.beats(protocol.Pong(1, steps, True), 1)[1] is None
    assert told.pulse.step == pytest.approx(3.0, rel=0.01)
    beats, complaint = told.beats(protocol.Pong(1, steps, True))
    assert beats == 60
    assert complaint == "no decode step for 60 s"


def test_an_idle_worker_makes_no_steps_and_is_left_alone() -> None:
    assert clock().beats(IDLE, 1000) == (1000, None)


def test_a_gateway_that_was_stopped_itself_blames_nobody() -> None:
    """Beats are counted: an hour in which there were none is one beat."""
    told = clock()
    assert told.beats(None, 1, cpu=0.0) == (1, None)
    assert told.beats(IDLE, 1) == (1, None)


def reading(*ids: str) -> protocol.Pong:
    return protocol.Pong(1, 7, False, ids)


def test_a_prompt_that_is_never_read_to_its_end_is_a_hang_and_names_who_waited() -> None:
    told = clock()
    assert told.beats(reading("1", "2"), cpu=0.0) == (31, "the same prompt has been read for 30 s")
    assert told.pulse.hung_over == ("1", "2")


def test_a_prompt_that_is_computed_gets_ten_times_as_long() -> None:
    assert clock().beats(reading("1"), cpu=1.0)[0] in (300, 301, 302)


def test_prompts_that_come_and_go_are_no_hang() -> None:
    told = clock()
    for number in range(100):
        assert told.beats(reading(str(number), str(number + 1)), 20)[1] is None


def test_a_deaf_worker_hung_over_what_it_had_not_read() -> None:
    told = clock()
    told.beats(reading("1"), 1)
    assert told.beats(None)[0] == 4
    assert told.pulse.hung_over == ("1",)
    told = clock()
    told.beats(reading(), 1)
    told.beats(None)
    assert told.pulse.hung_over == ()


async def watched(answer: object, cpu_rate: float = 0.0) -> FakeProcess:
    process = FakeProcess(answer)  # type: ignore[arg-type]
    process.cpu_rate = cpu_rate
    watch = Watch(process, Pulse(0.001, 0.005, 0.004), 0.001)  # type: ignore[arg-type]
    process.on_event = watch.heard  # type: ignore[assignment]
    await watch.run()
    return process


async def test_a_worker_that_answers_no_ping_is_killed_with_the_reason() -> None:
    process = await watched(lambda *_: None)
    assert process.killed == ["killed because it hung: no answer to a ping for 0.004 s"]
    assert len(process.sent) == 4


async def test_a_worker_that_steps_is_pinged_until_it_ends() -> None:
    pings: list[int] = []

    def answer(process: FakeProcess, command: protocol.Command) -> None:
        assert isinstance(command, protocol.Ping)
        pings.append(command.id)
        process.on_event(protocol.Pong(command.id, len(pings), True))
        if len(pings) == 20:
            process.die("enough")

    process = await watched(answer)
    assert process.killed == []
    assert pings == list(range(1, 21))
