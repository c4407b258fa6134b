from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from router.sizing.window import CHUNK, Window

U64 = struct.Struct("<Q")
Open = Callable[..., Window]


class Refused(Exception):
    pass


def refuse(reason: str) -> NoReturn:
    raise Refused(reason)


@pytest.fixture
def over(tmp_path: Path) -> Iterator[Open]:
    """over(content, size=announced) -> a window on a file with that content"""
    descriptors: list[int] = []

    def _over(content: bytes, size: int | None = None) -> Window:
        path = tmp_path / "content"
        path.write_bytes(content)
        descriptors.append(os.open(path, os.O_RDONLY))
        return Window(descriptors[-1], len(content) if size is None else size, refuse)

    yield _over
    for descriptor in descriptors:
        os.close(descriptor)


def string(content: bytes) -> bytes:
    return U64.pack(len(content)) + content


def test_bytes_come_in_order_over_the_borders_of_the_buffer(over: Open) -> None:
    content = bytes(range(256)) * (3 * CHUNK // 256)
    window = over(content)
    pieces = [window.take(size, "it") for size in (1, CHUNK - 2, 5, CHUNK + 7, 100)]
    assert b"".join(pieces) == content[: window.position]


def test_what_was_skipped_is_not_read(over: Open) -> None:
    window = over(b"a" + bytes(5 * CHUNK) + b"z")
    window.take(1, "it")
    window.skip(5 * CHUNK, "it")
    assert window.take(1, "it") == b"z"
    assert window.remaining == 0


def test_strings_are_passed_over_wherever_the_buffer_ends(over: Open) -> None:
    lengths = [0, 1, 7, CHUNK - 9, 3, 2 * CHUNK, *range(500), 0]
    window = over(b"".join(string(b"x" * length) for length in lengths) + b"end")
    window.skip_strings(len(lengths), "words")
    assert window.take(3, "it") == b"end"


def test_a_string_that_ends_behind_the_file_is_a_shortage(over: Open) -> None:
    window = over(string(b"ab") + U64.pack(2**63) + b"xyz")
    with pytest.raises(Refused, match="truncated: words needs a file of"):
        window.skip_strings(2, "words")


def test_strings_that_stop_short_are_a_shortage(over: Open) -> None:
    window = over(string(b"ab") + b"\0\0")
    with pytest.raises(Refused, match=r"needs a file of 18 bytes, found 12"):
        window.skip_strings(2, "words")


def test_a_shortage_tells_the_bytes_needed_and_found(over: Open) -> None:
    window = over(b"abc")
    with pytest.raises(Refused, match=r"truncated: the count needs a file of 8 bytes, found 3"):
        window.unpack(U64, "the count")
    with pytest.raises(Refused, match=r"needs a file of 4 bytes, found 3"):
        window.skip(4, "it")


def test_a_file_that_shrank_since_it_was_measured_is_a_shortage(over: Open) -> None:
    window = over(b"abc", size=1000)
    with pytest.raises(Refused, match=r"needs a file of 10 bytes, found 3"):
        window.take(10, "it")


def test_a_read_error_is_told(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(Refused, match="cannot be read: Is a directory"):
            Window(descriptor, 10, refuse).take(1, "it")
    finally:
        os.close(descriptor)
