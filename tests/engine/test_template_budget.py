from __future__ import annotations

import itertools
import time

import pytest
from jinja2.exceptions import SecurityError

from router.domain.errors import InvalidRequest
from router.engine import template_budget as cost
from tests.engine.templates import render


@pytest.fixture(autouse=True)
def fresh():
    cost.start(time.thread_time)


def spent() -> tuple[int, int]:
    return cost.MAX_STEPS - cost.budget().steps, cost.MAX_CHARACTERS - cost.budget().characters


def test_steps_run_out_before_time_does():
    began = time.thread_time()
    with pytest.raises(InvalidRequest, match="too many steps"):
        render("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
    assert time.thread_time() - began < cost.MAX_SECONDS


def test_a_template_has_only_so_much_processor_time():
    clock = itertools.count()
    with pytest.raises(InvalidRequest, match="too long"):
        render("{% for i in range(9999) %}{% endfor %}", clock=lambda: next(clock))


def test_a_counted_value_costs_a_step_and_a_length_none():
    values = cost.Counted([1, 2, 3])
    assert (len(values), bool(values), spent()) == (3, True, (0, 0))
    assert list(values) == [1, 2, 3]
    assert spent() == (3, 0)


def test_a_generator_has_no_length_and_is_counted():
    values = cost.Counted(iter("ab"))
    assert bool(values)
    with pytest.raises(TypeError):
        len(values)
    assert cost.listed(values) == ["a", "b"]
    assert spent()[0] >= 2


def test_text_costs_all_that_it_is_made_of():
    cost.spell(["a" * 1000, {"b": ("c" * 1000,)}])
    assert 2000 <= spent()[1] < 2100


def test_what_is_nested_too_deeply_or_of_an_unknown_kind_is_not_written():
    deep: object = 1
    for _ in range(cost.MAX_DEPTH + 2):
        deep = [deep]
    for value in (deep, object(), iter(()), {}.keys(), b"a"):
        with pytest.raises(SecurityError):
            cost.spell(value)


def test_lists_of_other_lengths_are_told_apart_at_once():
    cost.compare(["a"] * 1000, ["a"], ordered=False)
    assert spent()[0] == 1
    cost.compare(["a"] * 1000, ["a"] * 1000, ordered=False)
    assert spent()[0] > 2000


@pytest.mark.parametrize("key", [(1,), [1], {}, b"a", iter(())])
def test_a_key_is_a_plain_value(key):
    with pytest.raises(SecurityError):
        cost.check_key(key)


def test_a_number_has_a_bound():
    cost.check_number(2**4000)
    with pytest.raises(SecurityError, match="large"):
        cost.check_number(2**5000)


def test_nothing_that_is_charged_gives_anything_back():
    known = cost.Budget()
    for charge in (known.step, known.make, known.make_list, known.read):
        with pytest.raises(SecurityError):
            charge(-2000)
    assert known.steps <= cost.MAX_STEPS
    assert known.characters <= cost.MAX_CHARACTERS


@pytest.mark.parametrize("key", [2**61, -(2**61), 2.0**61, float("inf")])
def test_a_key_is_no_number_that_can_be_made_to_meet_others(key):
    with pytest.raises(SecurityError):
        cost.check_key(key)
