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
    Ledger(path).put("b1", MODEL, SIZE)
    assert Ledger(path).get("b1", MODEL) == SIZE


def test_another_engine_file_or_option_is_another_entry(path: Path) -> None:
    book = Ledger(path)
    book.put("b1", MODEL, SIZE)
    assert book.get("b2", MODEL) is None
    others = [
        msgspec.structs.replace(MODEL, file=FileIdentity(1, 2, 3, 5)),
        msgspec.structs.replace(MODEL, engine=EngineOptions(context=1)),
        msgspec.structs.replace(MODEL, path="/models/b.gguf"),
    ]
    assert [book.get("b1", other) for other in others] == [None, None, None]


def test_what_does_not_change_the_process_does_not_change_the_entry(path: Path) -> None:
    book = Ledger(path)
    book.put("b1", MODEL, SIZE)
    assert (
        book.get("b1", msgspec.structs.replace(MODEL, name="z", aliases=("y",), ttl=None, pinned=True))
        == SIZE
    )


def test_a_second_measurement_replaces_the_first(path: Path) -> None:
    book = Ledger(path)
    book.put("b1", MODEL, SIZE)
    book.put("b1", MODEL, {"host": Footprint(weights=7)})
    assert Ledger(path).get("b1", MODEL) == {"host": Footprint(weights=7)}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"version": 1}',
        b'{"version": 2, "footprints": {}}',
        b'{"version": 1, "footprints": {"a": {"weights": "many"}}}',
        b'{"version": 1, "footprints": {"a": {"weights": -1}}}',
        b"[" * 100_000,
    ],
)
def test_broken_or_foreign_content_is_no_content(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    book = Ledger(path)
    assert book.get("b1", MODEL) is None
    book.put("b1", MODEL, SIZE)
    assert Ledger(path).get("b1", MODEL) == SIZE


def test_a_file_of_absurd_size_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Ledger(path).put("b1", MODEL, SIZE)
    monkeypatch.setattr(ledger, "MAX_BYTES", 10)
    assert Ledger(path).get("b1", MODEL) is None


def test_the_least_recently_used_entry_goes_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MAX_ENTRIES", 3)
    book = Ledger(path)
    for build in ("b1", "b2", "b3"):
        book.put(build, MODEL, SIZE)
    assert book.get("b1", MODEL) == SIZE
    book.put("b4", MODEL, SIZE)
    found = {build for build in ("b1", "b2", "b3", "b4") if Ledger(path).get(build, MODEL)}
    assert found == {"b1", "b3", "b4"}


def test_a_place_that_cannot_be_written_keeps_the_entry_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    book = Ledger(tmp_path / "file" / "ledger.json")
    book.put("b1", MODEL, SIZE)
    assert book.get("b1", MODEL) == SIZE


def test_a_directory_in_the_place_of_the_file_is_left_alone(path: Path) -> None:
    path.mkdir(parents=True)
    book = Ledger(path)
    book.put("b1", MODEL, SIZE)
    assert book.get("b1", MODEL) == SIZE
    assert list(path.parent.iterdir()) == [path]


def test_saving_leaves_nothing_beside_the_file(path: Path) -> None:
    Ledger(path).put("b1", MODEL, SIZE)
    assert list(path.parent.iterdir()) == [path]
