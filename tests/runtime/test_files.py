from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from router.domain.errors import LoadFailed
from router.domain.models import LocalModel
from router.runtime import files
from router.runtime.files import Hashes, check_identity
from router.sizing.parts import identity
from tests.local import local_model

CONTENT = b"GGUF" * 1000


@pytest.fixture
def model(tmp_path: Path) -> LocalModel:
    path = tmp_path / "m.gguf"
    path.write_bytes(CONTENT)
    pinned = hashlib.sha256(CONTENT).hexdigest().upper()
    return local_model("m", str(path), file=identity([path]), sha256=pinned)


def test_a_file_that_is_as_it_was_passes(model: LocalModel) -> None:
    check_identity(model)


def test_a_file_replaced_by_rename_is_refused(model: LocalModel, tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(CONTENT)
    (tmp_path / "new").replace(model.path)
    with pytest.raises(LoadFailed, match="was replaced since the registry was read"):
        check_identity(model)


def test_a_file_that_is_gone_is_refused(model: LocalModel) -> None:
    Path(model.path).unlink()
    with pytest.raises(LoadFailed, match="No such file"):
        check_identity(model)


async def test_of_a_split_model_every_part_is_checked_and_hashed(tmp_path: Path) -> None:
    files_ = [tmp_path / f"m-0000{n}-of-00002.gguf" for n in (1, 2)]
    for path in files_:
        path.write_bytes(CONTENT)
    pinned = hashlib.sha256(CONTENT * 2).hexdigest()
    model = local_model("m", str(files_[0]), file=identity(files_), sha256=pinned)
    check_identity(model)
    await Hashes().verify(model, lambda _: None)
    files_[1].write_bytes(CONTENT[:-1])
    with pytest.raises(LoadFailed, match="was replaced since the registry was read"):
        check_identity(model)
    files_[1].unlink()
    with pytest.raises(LoadFailed, match="No such file"):
        check_identity(model)


def test_what_is_no_file_has_no_identity() -> None:
    check_identity(local_model("e", "echo:"))


async def test_the_pinned_hash_is_checked_with_progress_and_only_once(
    model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_CHUNK", 1000)
    hashes = Hashes()
    fractions: list[float] = []
    assert not hashes.known(model)
    await hashes.verify(model, fractions.append)
    assert fractions == [0.25, 0.5, 0.75, 1.0]
    await hashes.verify(model, fractions.append)
    assert len(fractions) == 4
    assert hashes.known(model)


async def test_g18_a_wrong_hash_is_refused_and_names_both(model: LocalModel) -> None:
    wrong = msgspec.structs.replace(model, sha256="ab" * 32)
    hashes = Hashes()
    for _ in range(2):  # from the file, then from memory
        with pytest.raises(LoadFailed) as caught:
            await hashes.verify(wrong, lambda _: None)
        assert hashlib.sha256(CONTENT).hexdigest() in caught.value.message
        assert "ab" * 32 in caught.value.message


async def test_a_file_that_cannot_be_hashed_is_a_failed_load(model: LocalModel) -> None:
    missing = msgspec.structs.replace(model, path=f"{model.path}.no")
    with pytest.raises(LoadFailed, match="cannot be read: No such file"):
        await Hashes().verify(missing, lambda _: None)


async def test_g18_a_file_replaced_while_it_was_hashed_is_refused(model: LocalModel, tmp_path: Path) -> None:
    def replace(fraction: float) -> None:
        (tmp_path / "new").write_bytes(CONTENT)
        (tmp_path / "new").replace(model.path)

    hashes = Hashes()
    with pytest.raises(LoadFailed, match="was replaced"):
        await hashes.verify(model, replace)
    assert not hashes.known(model)


async def test_a_model_without_a_pin_is_not_read() -> None:
    await Hashes().verify(local_model("m", "/nowhere.gguf"), lambda _: None)
