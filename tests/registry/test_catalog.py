from __future__ import annotations

import asyncio

import msgspec
import pytest

from router.domain.errors import RegistryInvalid
from router.domain.models import Footprint
from router.registry.loader import Registry
from tests.local import resized
from tests.registry.conftest import Folder
from tests.registry.rig import ONE, TWO, Rig


@pytest.fixture
def rig(folder: Folder) -> Rig:
    folder.model()
    return Rig(folder)


# Start ----------------------------------------------------------------------------------------------------


async def test_a_start_serves_what_it_can(rig: Rig) -> None:
    catalog = await rig.start(TWO)
    assert catalog.current.models["a"].problem is None
    assert "no such file" in str(catalog.current.models["b"].problem)
    assert catalog.refused == ()


async def test_a_broken_text_is_no_start(rig: Rig) -> None:
    with pytest.raises(RegistryInvalid):
        await rig.start("version: 1\nmodels: {a: 3}\n")
    with pytest.raises(RuntimeError, match="not started"):
        _ = rig.catalog.current


async def test_a_budget_that_holds_nothing_is_a_start_with_broken_models(rig: Rig) -> None:
    catalog = await rig.start(
        "version: 1\ndevices: {host: {budget: 1KB}}\nmodels:\n  a: {path: a.gguf, pinned: true}\n"
    )
    assert "the budget of host" in str(catalog.current.models["a"].problem)


async def test_what_fits_is_judged_by_the_refined_footprints(rig: Rig) -> None:
    async def refine(registry: Registry) -> Registry:
        (model,) = registry.models.values()
        huge = resized(model, Footprint(10**12))
        return registry.with_models({"a": huge})

    rig.refine = refine
    catalog = await rig.start()
    assert "the budget of host" in str(catalog.current.models["a"].problem)


# Reload ---------------------------------------------------------------------------------------------------


async def test_a_good_edit_takes_effect_at_once_and_whole(rig: Rig) -> None:
    catalog = await rig.start()
    before = catalog.current
    rig.folder.write(ONE.replace("a: {", "a: {aliases: [x], "))
    registry = await catalog.reload()
    assert catalog.current is registry
    assert rig.applied == [registry]
    assert registry.aliases == {"x": "a"}
    assert before.aliases == {}
    assert rig.outcomes == [("applied", ())]


async def test_a_bad_edit_changes_nothing_and_says_why(rig: Rig) -> None:
    catalog = await rig.start()
    before = catalog.current
    rig.folder.write(ONE + "  b: 3\n")
    assert await rig.refused() == ["registry.yaml:4:6: models.b: expected a mapping, got 3"]
    assert catalog.current is before
    assert rig.applied == []
    assert rig.folder.short(catalog.refused) == ["registry.yaml:4:6: models.b: expected a mapping, got 3"]
    rig.folder.write(ONE)
    assert await catalog.reload() == before
    assert catalog.refused == ()
    assert rig.kinds() == ["refused", "applied"]


async def test_a_deleted_registry_is_a_refused_edit(rig: Rig) -> None:
    catalog = await rig.start()
    rig.folder.file.unlink()
    assert await rig.refused() == ["registry.yaml:1:1: there is no such file"]
    assert catalog.current.models


async def test_a_new_model_without_a_file_refuses_the_edit(rig: Rig) -> None:
    await rig.start()
    rig.folder.write(TWO)
    assert await rig.refused() == ["registry.yaml:4:3: models.b: no such file: b.gguf"]


async def test_a_model_changed_to_a_broken_file_refuses_the_edit(rig: Rig) -> None:
    await rig.start()
    rig.folder.write(ONE.replace("a.gguf", "c.gguf"))
    assert await rig.refused() == ["registry.yaml:3:3: models.a: no such file: c.gguf"]


async def test_a_model_that_was_broken_before_does_not_refuse_an_edit_of_another(rig: Rig) -> None:
    catalog = await rig.start(TWO)
    rig.folder.write(TWO.replace("a: {", "a: {ttl: 5m, "))
    await catalog.reload()
    assert catalog.current.models["a"].ttl == 300
    assert catalog.current.models["b"].problem


async def test_an_edit_that_makes_a_model_too_large_is_refused(rig: Rig) -> None:
    await rig.start("version: 1\ndevices: {host: {budget: 80MB}}\nmodels:\n  a: {path: a.gguf}\n")
    assert rig.catalog.current.models["a"].problem is None
    rig.folder.write(
        rig.folder.file.read_text().replace("a.gguf", "a.gguf, context: 1000, slots: 256, ubatch: 8192")
    )
    (line,) = await rig.refused()
    assert line.startswith("registry.yaml:4:3: models.a: needs ")


async def test_a_deleted_model_file_leaves_what_is_in_memory_alone_and_says_so(rig: Rig) -> None:
    catalog = await rig.start()
    before = catalog.current.models["a"]
    (rig.folder.root / "a.gguf").unlink()
    rig.folder.write(ONE.replace("a: {", "a: {ttl: 5m, "))
    await catalog.reload()
    after = catalog.current.models["a"]
    assert (after.fingerprint, after.problem, after.ttl) == (before.fingerprint, None, 300)
    assert "its file is gone; what is in memory serves on" in catalog.current.warnings[-1]


async def test_a_truncated_model_file_retires_the_model(rig: Rig) -> None:
    catalog = await rig.start()
    before = catalog.current.models["a"]
    path = rig.folder.root / "a.gguf"
    path.write_bytes(path.read_bytes()[:100])
    await catalog.reload()
    after = catalog.current.models["a"]
    assert after.fingerprint != before.fingerprint
    assert after.problem


async def test_reloads_that_meet_share_a_reading_that_began_after_all_of_them(rig: Rig) -> None:
    catalog = await rig.start()
    gate, inside = rig.hold_refine()
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(catalog.reload())
        await inside.wait()
        rig.folder.write(ONE.replace("a: {", "a: {aliases: [late], "))
        others = [tasks.create_task(catalog.reload()) for _ in range(5)]
        await asyncio.sleep(0)
        gate.set()
    assert rig.loads == 2
    assert first.result().aliases == {}
    assert all(task.result().aliases == {"late": "a"} for task in others)


async def test_a_reload_whose_caller_left_is_done_by_the_next_one(rig: Rig) -> None:
    catalog = await rig.start()
    gate, inside = rig.hold_refine()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(catalog.reload())
        await inside.wait()
        leader = tasks.create_task(catalog.reload())
        await asyncio.sleep(0)
        follower = tasks.create_task(catalog.reload())
        await asyncio.sleep(0)
        leader.cancel()
        gate.set()
    assert running.result() == follower.result()
    assert rig.loads == 2


async def test_a_fault_of_our_own_reaches_the_caller_and_stops_nobody_else(rig: Rig) -> None:
    catalog = await rig.start()
    before = catalog.current

    async def refine(registry: Registry) -> Registry:
        raise OSError("the disk is on fire")

    good, rig.refine = rig.refine, refine
    with pytest.raises(OSError, match="on fire"):
        await catalog.reload()
    assert catalog.current is before
    rig.folder.write(ONE.replace("a: {", "a: {ttl: 5m, "))
    await catalog.notice()
    await catalog.notice()
    assert rig.outcomes == []
    rig.refine = good
    assert (await catalog.reload()).models["a"].ttl == 300


# What makes things worse ----------------------------------------------------------------------------------

ROOMY = "version: 1\ndevices: {host: {budget: 80MB}}\nmodels:\n  a: {path: a.gguf}\n"
TIGHT = ROOMY.replace("80MB", "80KB")


async def test_a_budget_that_no_longer_holds_an_untouched_model_is_refused_as_worse(rig: Rig) -> None:
    catalog = await rig.start(ROOMY)
    rig.folder.write(TIGHT)
    (line,) = await rig.refused()
    assert line.startswith("registry.yaml:4:3: models.a: this edit makes things worse: needs ")
    assert line.endswith("to apply it all the same, run: router reload --force")
    assert catalog.current.budgets == {"host": 80_000_000}
    rig.folder.write(ROOMY)
    assert (await catalog.reload()).models["a"].problem is None


async def test_what_makes_things_worse_is_applied_by_force_and_stays(rig: Rig) -> None:
    catalog = await rig.start(ROOMY)
    rig.folder.write(TIGHT)
    await rig.refused()
    registry = await catalog.reload(force=True)
    assert "the budget of host" in str(registry.models["a"].problem)
    assert (catalog.current, catalog.refused) == (registry, ())
    assert await catalog.reload() == registry
    rig.folder.write(TIGHT.replace("a: {", "a: {ttl: 5m, "))
    assert (await catalog.reload()).models["a"].ttl == 300


async def test_force_does_not_take_a_text_that_is_wrong(rig: Rig) -> None:
    catalog = await rig.start()
    rig.folder.write(ONE + "  b: 3\n")
    with pytest.raises(RegistryInvalid, match="expected a mapping"):
        await catalog.reload(force=True)
    rig.folder.write(TWO)
    assert (await catalog.reload(force=True)).models["b"].problem
    rig.folder.write(TWO.replace("b.gguf", "c.gguf"))
    with pytest.raises(RegistryInvalid, match="no such file"):  # force holds for one reading
        await catalog.reload()


async def test_a_pin_that_leaves_no_room_for_an_untouched_model_is_refused_as_worse(rig: Rig) -> None:
    rig.folder.model("b.gguf")
    catalog = await rig.start(TWO)
    size = sum(catalog.current.models["a"].placements[0].bytes.values())
    text = TWO.replace("models:", f"devices: {{host: {{budget: {size * 3 // 2}}}}}\nmodels:")
    rig.folder.write(text)
    await catalog.reload()
    rig.folder.write(text.replace("a: {", "a: {pinned: true, "))
    (line,) = await rig.refused()
    assert "models.b: this edit makes things worse: needs " in line
    assert "beside what is pinned" in line


async def test_a_demand_of_a_route_that_breaks_an_untouched_model_is_refused_as_worse(rig: Rig) -> None:
    rig.folder.model(file_type=12)
    await rig.start()
    rig.folder.write(ONE + "routes: {r: {candidates: [a], min_quant: Q5_K_M}}\n")
    (line,) = await rig.refused()
    assert line.startswith(
        "registry.yaml:4:42: routes.r.min_quant: this edit makes things worse: 'a' is a Q3_K_M"
    )


async def test_a_context_that_the_file_never_had_breaks_one_model_at_start_and_is_refused_live(
    rig: Rig,
) -> None:
    rig.folder.model("b.gguf")
    broken = TWO.replace("b.gguf", "b.gguf, context: 5000")
    catalog = await rig.start(broken)
    assert {n: m.problem for n, m in catalog.current.models.items()} == {
        "a": None,
        "b": "the model was made for 1000 tokens at most, got 5000",
    }
    rig.folder.write(TWO)
    assert (await catalog.reload()).models["b"].problem is None
    rig.folder.write(broken)
    assert await rig.refused() == [
        "registry.yaml:4:30: models.b.context: the model was made for 1000 tokens at most, got 5000"
    ]


async def test_a_file_that_shrank_its_context_breaks_its_own_model_and_no_edit(rig: Rig) -> None:
    catalog = await rig.start(ONE.replace("a.gguf", "a.gguf, context: 900"))
    rig.folder.model(context=500)
    assert (await catalog.reload()).models[
        "a"
    ].problem == "the model was made for 500 tokens at most, got 900"


async def test_a_model_that_the_engine_refuses_is_broken_at_start_and_refused_in_an_edit(rig: Rig) -> None:
    rig.folder.model("b.gguf")

    async def refine(registry: Registry) -> Registry:
        models = dict(registry.models)
        if "b" in models:
            models["b"] = msgspec.structs.replace(models["b"], problem="unknown model architecture")
        return registry.with_models(models)

    rig.refine = refine
    await rig.start()
    rig.folder.write(TWO)
    assert await rig.refused() == ["registry.yaml:4:3: models.b: unknown model architecture"]


# A model's file ------------------------------------------------------------------------------------------


async def test_a_model_is_read_again_only_when_its_file_is_another_one(rig: Rig) -> None:
    catalog = await rig.start(TWO)
    first = catalog.current.models["a"]
    assert await catalog.reread(first) is None
    assert await catalog.reread(catalog.current.models["b"]) is None  # missing as before
    assert rig.loads == 0
    rig.folder.model(width=64)
    fresh = await catalog.reread(first)
    assert fresh is not None
    assert fresh.file != first.file
    assert (await catalog.reread(first), rig.loads) == (fresh, 1)
    rig.folder.model("b.gguf")
    found = await catalog.reread(catalog.current.models["b"])
    assert found is not None
    assert found.problem is None


async def test_a_model_whose_registry_cannot_be_read_again_is_not(rig: Rig) -> None:
    catalog = await rig.start()
    rig.folder.model(width=64)
    rig.folder.write(ONE + "  b: 3\n")
    with pytest.raises(RegistryInvalid):
        await catalog.reread(catalog.current.models["a"])


async def test_the_force_of_who_went_away_is_not_the_next_ones(rig: Rig) -> None:
    catalog = await rig.start(ROOMY)
    gate, inside = rig.hold_refine()
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(catalog.reload())
        await inside.wait()
        forced = tasks.create_task(catalog.reload(force=True))
        await asyncio.sleep(0)
        forced.cancel()
        await asyncio.wait({forced})
        gate.set()
    assert first.result() == catalog.current
    rig.folder.write(TIGHT)
    await rig.refused()
