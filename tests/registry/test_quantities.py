from __future__ import annotations

import pytest

from router.registry.quantities import Share, budget, duration, size


@pytest.mark.parametrize(
    ("text", "expected"),
    [("9GiB", 9 * 2**30), ("800MB", 800_000_000), ("1.5 KiB", 1536), ("12B", 12), (8589934592, 8589934592)],
)
def test_sizes_are_bytes(text: object, expected: int) -> None:
    assert size(text) == expected
    assert budget(text) == expected


def test_a_budget_may_be_a_share() -> None:
    assert budget("80%") == Share(0.8)
    assert budget("12.5%") == Share(0.125)


@pytest.mark.parametrize(
    "text", ["0%", "101%", "-5%", "9G", "9gib", "GiB", "", "0B", 0, -1, True, 1.5, None, "9e9GiB"]
)
def test_other_budgets_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        budget(text)


def test_absurd_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        size(10**30)
    with pytest.raises(ValueError, match="at most"):
        size("999999999TiB")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200), ("500ms", 0.5), ("1d", 86400), ("0s", 0)]
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert duration(text) == seconds


def test_a_duration_without_a_unit_is_refused_with_the_likely_meaning() -> None:
    with pytest.raises(ValueError, match=r"write 90s for seconds"):
        duration(90)


@pytest.mark.parametrize("text", ["never", "1 hour", "-1s", "1h30m", True, "", "10:30", "400d"])
def test_other_durations_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        duration(text)
