from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from router.domain.models import EngineOptions, FileIdentity, Footprint
from router.sizing import ledger
from router.sizing.ledger import Ledger
from tests.local import local_model

MODEL = local_model("a", "/models/a.gguf", file=FileIdentity(1, 2, 3, 4))
SIZE = {"host": Footprint(weights=100, kv_cache=20, compute=3)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "ledger.json"


def test_what_was_put_is_got_after_a_restart(path: Path) -> None:
    Ledger(path).plan("b1", MODEL, MODEL.engine, SIZE)
    assert Ledger(path).planned("b1", MODEL, MODEL.engine) == SIZE


def test_another_build_file_or_placement_is_another_entry(path: Path) -> None:
    book = Ledger(path)
    book.plan("b1", MODEL, MODEL.engine, SIZE)
    assert book.planned("b2", MODEL, MODEL.engine) is None
    assert book.planned("b1", MODEL, EngineOptions(gpu_layers=3)) is None
    others = [
        msgspec.structs.replace(MODEL, file=FileIdentity(1, 2, 3, 5)),
        msgspec.structs.replace(MODEL, path="/models/b.gguf"),
    ]
    assert [book.planned("b1", other, MODEL.engine) for other in others] == [None, None]


def test_a_file_whose_hash_is_stated_is_the_same_wherever_it_lies(path: Path) -> None:
    hashed = msgspec.structs.replace(MODEL, sha256="ab" * 32)
    moved = msgspec.structs.replace(hashed, path="/other/b.gguf", file=FileIdentity(9, 9, 9, 9))
    Ledger(path).plan("b1", hashed, MODEL.engine, SIZE)
    assert Ledger(path).planned("b1", moved, MODEL.engine) == SIZE


def test_what_does_not_change_the_process_does_not_change_the_entry(path: Path) -> None:
    book = Ledger(path)
    book.plan("b1", MODEL, MODEL.engine, SIZE)
    same = msgspec.structs.replace(MODEL, name="z", aliases=("y",), ttl=None, pinned=True)
    assert book.planned("b1", same, same.engine) == SIZE


def test_a_second_plan_replaces_the_first_and_leaves_what_was_measured(path: Path) -> None:
    book = Ledger(path)
    book.plan("b1", MODEL, MODEL.engine, SIZE)
    book.measure("b1", MODEL, MODEL.engine, SIZE)
    book.plan("b1", MODEL, MODEL.engine, {"host": Footprint(weights=7)})
    assert Ledger(path).planned("b1", MODEL, MODEL.engine) == {"host": Footprint(weights=7)}
    assert Ledger(path).measured("b1", MODEL, MODEL.engine) == SIZE


def test_the_most_that_was_measured_is_kept_device_by_device(path: Path) -> None:
    MiB = 2**20
    book = Ledger(path)
    assert book.measured("b1", MODEL, MODEL.engine) is None
    book.measure("b1", MODEL, MODEL.engine, {"gpu0": Footprint(50 * MiB), "host": Footprint(9 * MiB)})
    most = book.measure("b1", MODEL, MODEL.engine, {"gpu0": Footprint(40 * MiB), "host": Footprint(20 * MiB)})
    assert most == {"gpu0": Footprint(50 * MiB), "host": Footprint(20 * MiB)}
    assert Ledger(path).measured("b1", MODEL, MODEL.engine) == most


def test_a_heap_that_is_never_twice_the_same_is_no_news(path: Path) -> None:
    book = Ledger(path)
    first = book.measure("b1", MODEL, MODEL.engine, {"host": Footprint(2**30)})
    assert book.measure("b1", MODEL, MODEL.engine, {"host": Footprint(2**30 + 5000)}) == first


def test_the_largest_overhead_of_a_build_and_device_is_kept(path: Path) -> None:
    book = Ledger(path)
    assert book.overhead("b1", "gpu0") is None
    for size in (500, 600, 550, 10**13):
        book.calibrate("b1", "gpu0", size)
    assert Ledger(path).overhead("b1", "gpu0") == 600
    assert Ledger(path).overhead("b1", "gpu1") is None
    assert Ledger(path).overhead("b2", "gpu0") is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"version": 1}',
        b'{"version": 3, "entries": {}, "overheads": {}}',
        b'{"version": 1, "footprints": {}}',
        b'{"version": 2, "entries": {"a": {"planned": {"host": {"weights": "many"}}}}, "overheads": {}}',
        b'{"version": 2, "entries": {"a": {"measured": {"host": {"weights": -1}}}}, "overheads": {}}',
        b"[" * 100_000,
    ],
)
def test_broken_or_foreign_content_is_no_content(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    book = Ledger(path)
    assert book.planned("b1", MODEL, MODEL.engine) is None
    book.plan("b1", MODEL, MODEL.engine, SIZE)
    assert Ledger(path).planned("b1", MODEL, MODEL.engine) == SIZE


def test_a_file_of_absurd_size_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Ledger(path).plan("b1", MODEL, MODEL.engine, SIZE)
    monkeypatch.setattr(ledger, "MAX_BYTES", 10)
    assert Ledger(path).planned("b1", MODEL, MODEL.engine) is None


def test_the_least_recently_used_entry_goes_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MAX_ENTRIES", 3)
    book = Ledger(path)
    for build in ("b1", "b2", "b3"):
        book.plan(build, MODEL, MODEL.engine, SIZE)
    assert book.planned("b1", MODEL, MODEL.engine) == SIZE
    book.plan("b4", MODEL, MODEL.engine, SIZE)
    found = {build for build in ("b1", "b2", "b3", "b4") if Ledger(path).planned(build, MODEL, MODEL.engine)}
    assert found == {"b1", "b3", "b4"}


def test_a_place_that_cannot_be_written_keeps_the_entry_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    book = Ledger(tmp_path / "file" / "ledger.json")
    book.plan("b1", MODEL, MODEL.engine, SIZE)
    assert book.planned("b1", MODEL, MODEL.engine) == SIZE


def test_a_directory_in_the_place_of_the_file_is_left_alone(path: Path) -> None:
    path.mkdir(parents=True)
    book = Ledger(path)
    book.plan("b1", MODEL, MODEL.engine, SIZE)
    assert book.planned("b1", MODEL, MODEL.engine) == SIZE
    assert list(path.parent.iterdir()) == [path]


def test_saving_leaves_nothing_beside_the_file(path: Path) -> None:
    Ledger(path).plan("b1", MODEL, MODEL.engine, SIZE)
    assert list(path.parent.iterdir()) == [path]


def test_a_refusal_is_kept_by_the_file_itself_and_never_by_the_hash_that_it_should_have(path: Path) -> None:
    pinned = msgspec.structs.replace(MODEL, sha256="a" * 64)
    Ledger(path).refuse("b1", pinned, MODEL.engine, "unknown architecture")
    book = Ledger(path)
    assert book.refused("b1", pinned, MODEL.engine) == "unknown architecture"
    assert book.refused("b2", pinned, MODEL.engine) is None
    other = msgspec.structs.replace(pinned, file=FileIdentity(9, 9, 9, 9))
    assert book.refused("b1", other, MODEL.engine) is None
    assert book.planned("b1", pinned, MODEL.engine) is None
