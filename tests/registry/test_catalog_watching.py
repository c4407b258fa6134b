from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.registry.catalog import POLL_SECONDS, Catalog
from tests.registry.conftest import Folder
from tests.registry.rig import ONE, TWO, Rig


@pytest.fixture
def rig(folder: Folder) -> Rig:
    folder.model()
    return Rig(folder)


# Noticing -------------------------------------------------------------------------------------------------


async def test_nothing_new_is_no_reload(rig: Rig) -> None:
    catalog = await rig.start()
    for _ in range(3):
        await catalog.notice()
    assert (rig.loads, rig.outcomes) == (0, [])


async def test_a_save_without_a_change_is_no_reload(rig: Rig) -> None:
    catalog = await rig.start()
    aside = rig.folder.root / "aside"
    aside.write_text(ONE)
    aside.replace(rig.folder.file)
    await catalog.notice()
    assert rig.loads == 0


async def test_each_content_is_told_once(rig: Rig) -> None:
    catalog = await rig.start()
    rig.folder.write(ONE + "  b: 3\n")
    for _ in range(3):
        await catalog.notice()
    rig.folder.write(ONE + "# a comment\n")
    for _ in range(3):
        await catalog.notice()
    assert rig.kinds() == ["refused", "applied"]


async def test_a_swapped_link_is_noticed(rig: Rig) -> None:
    """How Kubernetes updates a mounted ConfigMap."""
    root = rig.folder.root
    for version, text in {"v1": ONE, "v2": ONE.replace("a: {", "a: {ttl: 5m, ")}.items():
        (root / version).mkdir()
        (root / version / "registry.yaml").write_text(text)
    (root / "data").symlink_to("v1")
    rig.folder.file.symlink_to("data/registry.yaml")
    catalog = rig.catalog
    await catalog.start()
    (root / "data.new").symlink_to("v2")
    (root / "data.new").replace(root / "data")
    await catalog.notice()
    assert catalog.current.models["a"].ttl == 300


async def test_a_file_that_is_still_written_is_waited_for(rig: Rig) -> None:
    catalog = await rig.start()
    steps = iter(["version: 1\n", "version: 1\nmodels:\n", ONE + "  # more\n"])

    def write_on() -> None:
        with contextlib.suppress(StopIteration):
            rig.folder.write(next(steps))

    rig.during_pause = write_on
    rig.folder.write("")
    await catalog.notice()
    assert rig.kinds() == ["applied"]


async def test_a_file_that_never_rests_is_read_all_the_same(rig: Rig) -> None:
    catalog = await rig.start()
    rig.during_pause = lambda: rig.folder.write(ONE + f"  # {rig.pauses}\n")
    rig.folder.write(ONE + "#\n")
    await catalog.notice()
    assert rig.kinds() == ["applied"]
    assert rig.pauses == 20


async def test_a_missing_model_file_that_appears_is_served(rig: Rig) -> None:
    catalog = await rig.start(TWO)
    rig.folder.model("b.gguf")
    await catalog.notice()
    assert catalog.current.models["b"].problem
    await catalog.notice()  # it looks the same twice: nobody writes it any more
    assert catalog.current.models["b"].problem is None
    assert rig.kinds() == ["applied"]


async def test_the_file_that_a_refused_edit_lacked_makes_it_good(rig: Rig) -> None:
    catalog = await rig.start()
    rig.folder.write(TWO)
    await catalog.notice()
    assert rig.kinds() == ["refused"]
    rig.folder.model("b.gguf")
    await catalog.notice()
    await catalog.notice()
    assert rig.kinds() == ["refused", "applied"]
    assert set(catalog.current.models) == {"a", "b"}


async def test_a_model_file_that_grows_is_let_grow(rig: Rig) -> None:
    catalog = await rig.start(TWO)
    whole = rig.folder.model("c.gguf").read_bytes()
    for end in range(10, len(whole), len(whole) // 10):
        (rig.folder.root / "b.gguf").write_bytes(whole[:end])
        await catalog.notice()
    assert rig.loads == 0


async def test_a_replaced_model_file_is_a_new_fingerprint(rig: Rig) -> None:
    catalog = await rig.start()
    before = catalog.current.models["a"].fingerprint
    rig.folder.model("new.gguf", width=64).replace(rig.folder.root / "a.gguf")
    await catalog.notice()
    await catalog.notice()
    assert catalog.current.models["a"].fingerprint != before
    assert len(rig.applied) == 1


# Watching -------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def watching(catalog: Catalog) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        watch = tasks.create_task(catalog.watch())
        yield
        watch.cancel()


async def edited(rig: Rig, text: str) -> None:
    """Save until it is noticed: a directory watch takes a moment to begin."""
    for attempt in range(100):
        rig.folder.write(f"{text}# {attempt}\n")
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(rig.told.wait(), 0.5)
    raise AssertionError("never noticed")


async def test_the_directory_watch_alone_notices_a_save(rig: Rig) -> None:
    catalog = await rig.start()
    rig.pause = lambda seconds: asyncio.sleep(3600 if seconds >= POLL_SECONDS else 0)
    async with watching(catalog):
        await edited(rig, ONE.replace("a: {", "a: {ttl: 5m, "))
    assert catalog.current.models["a"].ttl == 300


async def test_the_poll_alone_notices_a_save_behind_a_link(rig: Rig) -> None:
    elsewhere = rig.folder.root / "elsewhere"
    elsewhere.mkdir()
    rig.folder.file.symlink_to(elsewhere / "real.yaml")
    catalog = await rig.start()
    rig.pause = lambda seconds: asyncio.sleep(0)
    async with watching(catalog):
        (elsewhere / "real.yaml").write_text(ONE.replace("a: {", "a: {ttl: 5m, "))
        await asyncio.wait_for(rig.told.wait(), 30)
    assert catalog.current.models["a"].ttl == 300


async def test_without_a_directory_to_watch_the_registry_is_still_polled(rig: Rig, tmp_path: Path) -> None:
    catalog = await rig.start()
    rig.pause = lambda seconds: asyncio.sleep(0)
    rig.folder.root.rename(tmp_path.with_name("moved"))
    async with watching(catalog):
        await asyncio.wait_for(rig.told.wait(), 30)
    assert rig.folder.short(catalog.refused) == ["registry.yaml:1:1: there is no such file"]
    tmp_path.with_name("moved").rename(rig.folder.root)
