from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from router.registry import files
from router.registry.schema import CachedFile, PackagedFile
from tests.registry.conftest import Folder


def test_a_relative_path_begins_at_the_registry(folder: Folder) -> None:
    path = folder.model("models/a.gguf")
    found = files.find("models/a.gguf", folder.root, folder.cache)
    assert (found.path, found.problem) == (path, None)
    assert found.header is not None
    assert found.identity.size == path.stat().st_size


def test_a_tilde_is_the_home_directory(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.root))
    assert files.locate("~/a.gguf", Path("/elsewhere"), folder.cache) == folder.root / "a.gguf"


def test_a_cached_file_lies_below_models(folder: Folder) -> None:
    assert (
        files.locate(CachedFile(cache="a.gguf"), folder.root, folder.cache) == folder.cache / "models/a.gguf"
    )


def test_a_packaged_file_is_found_and_its_package_is_not_imported(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = folder.root / "a_package_with_a_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    folder.model("a_package_with_a_model/m.gguf")
    monkeypatch.syspath_prepend(str(folder.root))
    for name in ("a_package_with_a_model", "a-package-with-a-model"):
        found = files.find(PackagedFile(package=name, file="m.gguf"), folder.root, folder.cache)
        assert (found.path, found.problem) == (package / "m.gguf", None)
    assert "a_package_with_a_model" not in sys.modules
    missing = files.find(
        PackagedFile(package="a_package_with_a_model", file="x.gguf"), folder.root, folder.cache
    )
    assert missing.problem == "the Python package 'a_package_with_a_model' has no file 'x.gguf'"


def test_a_file_named_by_a_distributions_own_list_is_found(folder: Folder) -> None:
    found = files.locate(PackagedFile(package="pyyaml", file="yaml/__init__.py"), folder.root, folder.cache)
    assert found.name == "__init__.py"
    assert found.exists()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("nowhere.gguf", "no such file"),
        ("~nosuchuser-at-all/a.gguf", "no such user"),
        ("x" * 5000, "File name too long"),
        (CachedFile(cache="../a.gguf"), "without .."),
        (CachedFile(cache="/etc/passwd"), "without .."),
        (
            PackagedFile(package="no_such_package_here", file="a.gguf"),
            "no Python package 'no_such_package_here'",
        ),
        (PackagedFile(package="json.decoder", file="a.gguf"), "no Python package"),
        (PackagedFile(package="json", file="../a.gguf"), "without .."),
        (PackagedFile(package="json", file="a.gguf"), "has no file 'a.gguf'"),
    ],
)
def test_a_path_that_leads_nowhere_is_a_problem_in_words(
    folder: Folder, path: str | CachedFile | PackagedFile, reason: str
) -> None:
    assert reason in str(files.find(path, folder.root, folder.cache).problem)


def test_a_file_that_is_no_model_is_a_problem_in_words(folder: Folder) -> None:
    (folder.root / "directory.gguf").mkdir()
    (folder.root / "empty.gguf").touch()
    (folder.root / "text.gguf").write_text("this is not a model\n" * 100)
    whole = folder.model("whole.gguf").read_bytes()
    (folder.root / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    (folder.root / "loop.gguf").symlink_to("loop.gguf")
    reasons = {
        "directory": "directory",
        "empty": "empty",
        "text": "not a GGUF",
        "cut": "truncated",
        "loop": "link",
    }
    for name, reason in reasons.items():
        found = files.look(folder.root / f"{name}.gguf")
        assert found.header is None
        assert reason.lower() in str(found.problem).lower()


def test_a_header_is_read_again_only_when_the_file_changed(folder: Folder) -> None:
    path = folder.model(context=100)
    first = files.look(path)
    assert files.look(path).header is first.header
    folder.model(context=200)
    os.utime(path, ns=(1, 1))
    again = files.look(path)
    assert again.header is not None
    assert again.header.number("context_length") == 200
    assert again.identity != first.identity


def test_a_glance_sees_files_come_change_and_go(folder: Folder) -> None:
    path = folder.root / "a.gguf"
    assert files.glance(path) == files.NO_FILE
    folder.model()
    assert files.glance(path) == files.look(path).identity
    path.unlink()
    assert files.glance(path) == files.NO_FILE


def test_a_glance_at_a_split_model_sees_all_its_parts(folder: Folder) -> None:
    first = folder.root / "m-00001-of-00003.gguf"
    first.write_bytes(b"one")
    alone = files.glance(first)
    (folder.root / "m-00003-of-00003.gguf").write_bytes(b"three")
    assert files.glance(first).size == alone.size + 5


def test_a_later_part_that_was_replaced_is_seen_even_at_the_same_size_and_with_an_older_time(
    folder: Folder,
) -> None:
    first, second = (folder.root / f"m-0000{n}-of-00002.gguf" for n in (1, 2))
    first.write_bytes(b"one")
    second.write_bytes(b"two")
    before = files.glance(first)
    (folder.root / "new").write_bytes(b"TWO")
    os.utime(folder.root / "new", ns=(1, 1))
    (folder.root / "new").replace(second)
    after = files.glance(first)
    assert (after.size, after.modified_ns) == (before.size, first.stat().st_mtime_ns)
    assert after != before
