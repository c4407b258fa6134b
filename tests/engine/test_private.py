from __future__ import annotations

import mmap
from pathlib import Path

from router.engine.private import let_go, private_bytes

MiB = 2**20


def resident(path: Path) -> int:
    """Bytes of the file that are in this process's memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.endswith(str(path)):
            return next(int(more.split()[1]) * 1024 for more in lines if more.startswith("Rss:"))
    return 0


def test_memory_that_is_written_is_private_and_comes_back_when_it_is_freed() -> None:
    before = private_bytes()
    taken = bytearray(32 * MiB)
    assert private_bytes() - before >= 31 * MiB
    del taken
    assert private_bytes() - before < 4 * MiB


def test_without_proc_nothing_is_told(tmp_path: Path) -> None:
    assert private_bytes(tmp_path) == 0


def test_a_mapped_file_is_not_private_and_can_be_let_go_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights!" * (8 * MiB // 8))
    before = private_bytes()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == path.read_bytes()
        assert private_bytes() - before < 2 * MiB
        assert resident(path) == 8 * MiB
        assert let_go(path) == 8 * MiB
        assert resident(path) == 0
        assert mapped[-8:] == b"weights!"


def test_a_mapping_that_can_be_written_is_never_let_go(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(bytes(MiB))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        mapped[0] = 7
        assert let_go(path) == 0
        assert mapped[0] == 7


def test_a_file_that_nobody_maps_is_nothing(tmp_path: Path) -> None:
    assert let_go(tmp_path / "gone") == 0
