from __future__ import annotations

import pytest

from router.simulate.machine import Machine
from tests.simulate.scene import MACHINE, model


def test_a_load_takes_its_overhead_and_its_bytes() -> None:
    assert MACHINE.load_seconds(model("a", 4)) == 5.0


def test_a_model_of_twice_the_weights_is_half_as_fast() -> None:
    assert MACHINE.decode_rate(model("a", 8), 1) == 50.0
    assert MACHINE.prefill_rate(model("a", 8), 1) == 500.0


def test_a_tiny_model_is_only_so_much_faster() -> None:
    assert MACHINE.decode_rate(model("a", 0.01), 1) == 400.0


def test_answers_gain_from_each_other_and_prompts_do_not() -> None:
    assert MACHINE.decode_rate(model("a"), 4) == 50.0  # each: in all twice the tokens of one
    assert MACHINE.prefill_rate(model("a"), 4) == 250.0


def test_the_defaults_are_the_measured_machine() -> None:
    eight_b = model("8b", 4.16)
    assert Machine().load_seconds(eight_b) == pytest.approx(0.7, abs=0.02)
    for streams, measured in ((1, 251), (8, 807), (32, 1545)):
        assert streams * Machine().decode_rate(eight_b, streams) == pytest.approx(measured, rel=0.1)
