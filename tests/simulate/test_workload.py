from __future__ import annotations

import itertools
from collections import Counter

from router.simulate import workload
from router.simulate.trace import Request

NAMES = ("a", "b", "c", "d")


def test_the_second_model_is_asked_for_half_as_often_as_the_first() -> None:
    counts = Counter(itertools.islice(workload.zipf(NAMES, 1.0, seed=3), 20_000))
    assert 0.45 < counts["b"] / counts["a"] < 0.55
    assert 0.21 < counts["d"] / counts["a"] < 0.29


def test_alpha_zero_treats_all_alike() -> None:
    counts = Counter(itertools.islice(workload.zipf(NAMES, 0.0, seed=3), 20_000))
    assert max(counts.values()) < 1.1 * min(counts.values())


def test_only_requests_without_a_model_get_one() -> None:
    work = [Request(0.0, "mine", 1, 1), Request(1.0, "", 1, 1)]
    found = workload.assign(work, NAMES, 1.0, seed=1)
    assert found[0].model == "mine"
    assert found[1].model in NAMES


def test_the_same_seed_makes_the_same_trace_and_another_one_another() -> None:
    first = workload.synthetic(NAMES, 50, 2.0, seed=7)
    assert first == workload.synthetic(NAMES, 50, 2.0, seed=7)
    assert first != workload.synthetic(NAMES, 50, 2.0, seed=8)


def test_made_up_work_has_the_rate_and_the_lengths_that_were_asked_for() -> None:
    work = workload.synthetic(NAMES, 20_000, 2.0)
    assert work[0].at == 0.0
    assert 0.97 < len(work) / work[-1].at / 2.0 < 1.03
    # The conversation trace has means of 1155 and 211 tokens; straight lines between quantiles come near.
    assert 1000 < sum(r.prompt for r in work) / len(work) < 1500
    assert 190 < sum(r.output for r in work) / len(work) < 240
    assert min(r.prompt for r in work) >= workload.PROMPTS[0]
    assert max(r.output for r in work) <= workload.ANSWERS[-1]
