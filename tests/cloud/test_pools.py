"""Connections that are kept open, and when they are closed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from router.cloud import pools
from router.cloud.pools import Pool, Pools
from router.domain.upstreams import Upstream
from tests.cloud.endpoint import authority

BOX = Upstream("box", "https://box/v1", "m")


async def closed(pool: Pool) -> bool:
    return pool._transport is None


async def test_calls_to_one_upstream_share_a_pool_and_two_names_never_do() -> None:
    them = Pools()
    async with them.of(BOX) as one, them.of(msgspec.structs.replace(BOX, model="other")) as same:
        async with them.of(msgspec.structs.replace(BOX, name="twin")) as twin:
            assert one is same is not twin
    await them.retain([])


async def test_a_pool_is_closed_when_the_registry_no_longer_names_it() -> None:
    them = Pools()
    async with them.of(BOX) as pool:
        await pool.transport()
    await them.retain([BOX])
    assert not await closed(pool)
    await them.retain([])
    assert await closed(pool)


async def test_a_pool_in_use_is_closed_after_its_last_call_and_a_new_one_serves_the_next() -> None:
    them = Pools()
    async with them.of(BOX) as pool:
        await pool.transport()
        await them.retain([])
        assert not await closed(pool)
        async with them.of(BOX) as new:
            assert new is not pool
    assert await closed(pool)


async def test_those_who_come_together_read_the_certificates_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, file = authority(tmp_path)
    read: list[str | None] = []
    plain = pools._context
    monkeypatch.setattr(pools, "_context", lambda ca_file: (read.append(ca_file), plain(ca_file))[1])
    pool = Pool(msgspec.structs.replace(BOX, ca_file=file))
    first = asyncio.get_running_loop().create_task(pool.transport(), name="leaves")
    others = [asyncio.get_running_loop().create_task(pool.transport(), name=f"{n}") for n in range(20)]
    await asyncio.sleep(0)
    first.cancel()
    assert len(set(await asyncio.gather(*others))) == 1
    assert read == [file]
    await pool.aclose()


async def test_certificates_that_could_not_be_read_are_read_again(tmp_path: Path) -> None:
    pool = Pool(msgspec.structs.replace(BOX, ca_file=str(tmp_path / "ca.pem")))
    with pytest.raises(FileNotFoundError):
        await pool.transport()
    authority(tmp_path)
    await pool.transport()
    await pool.aclose()
