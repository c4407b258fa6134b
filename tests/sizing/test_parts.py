from __future__ import annotations

from pathlib import Path

import pytest

from router.domain.models import FileIdentity
from router.sizing.parts import identity, parts


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("m.gguf", 1),
        ("m-00001-of-00003.gguf", 3),
        ("m-00002-of-00003.gguf", 1),
        ("m-00001-of-00001.gguf", 1),
        ("m-00001-of-00000.gguf", 1),
        ("m-00001-of-99999.gguf", 1),
        ("m-1-of-3.gguf", 1),
    ],
)
def test_only_the_first_part_stands_for_all_of_them(name: str, count: int) -> None:
    assert len(parts(Path("/models") / name)) == count


def test_parts_are_named_in_order_beside_the_first() -> None:
    assert parts(Path("/d/m-00001-of-00003.gguf"))[1:] == [
        Path("/d/m-00002-of-00003.gguf"),
        Path("/d/m-00003-of-00003.gguf"),
    ]


def test_one_file_is_what_the_system_says_of_it(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"abc")
    seen = path.stat()
    assert identity([path]) == FileIdentity(seen.st_dev, seen.st_ino, 3, seen.st_mtime_ns)


def test_of_several_files_each_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for path in (first, second):
        path.write_bytes(b"abc")
    both = identity([first, second])
    assert both.size == 6
    (tmp_path / "c").write_bytes(b"xyz")
    (tmp_path / "c").replace(second)
    assert identity([first, second]) != both
    with pytest.raises(FileNotFoundError):
        identity([first, tmp_path / "gone"])
