from __future__ import annotations

import pytest

from router.domain.memory import fits, lacking, left, plus, told


def test_vectors_are_added_device_by_device() -> None:
    assert plus({"gpu0": 1, "host": 2}, {"gpu0": 3}, {}) == {"gpu0": 4, "host": 2}
    assert plus() == {}


def test_what_is_left_is_told_for_each_device_that_has_room_and_for_no_other() -> None:
    assert left({"gpu0": 10}, {"gpu0": 3, "host": 99}, {"gpu0": 9}) == {"gpu0": -2}


@pytest.mark.parametrize(
    ("need", "room", "missing"),
    [
        ({"gpu0": 3}, {"gpu0": 3}, {}),
        ({"gpu0": 4, "host": 1}, {"gpu0": 3, "host": 0}, {"gpu0": 1, "host": 1}),
        ({"gpu0": 4, "host": 1}, {"gpu0": 3, "host": 9}, {"gpu0": 1}),
        ({"host": 10**12}, {"gpu0": 3}, {}),  # no budget, no limit
        ({"gpu0": 2}, {"gpu0": -3}, {"gpu0": 5}),
        ({"gpu0": 0}, {"gpu0": -3}, {}),  # who needs nothing there can come all the same
    ],
)
def test_what_is_lacking(need: dict[str, int], room: dict[str, int], missing: dict[str, int]) -> None:
    assert lacking(need, room) == missing
    assert fits(need, room) == (not missing)


def test_bytes_are_told_in_words() -> None:
    assert told({"host": 5, "gpu0": 8}) == "8 bytes of gpu0 and 5 of host"
    assert told({}) == "nothing"
