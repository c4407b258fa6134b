from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.memory import fits
from router.domain.models import ALL_LAYERS, AUTO_LAYERS, EngineOptions, Footprint, Placement
from router.sizing.placement import Sizes, plan, settle

LAYERS = 9
"""And the output: ten that can be offloaded."""
BY_LAYER, PROCESS = 10, 5
AUTO, ALL = EngineOptions(gpu_layers=AUTO_LAYERS), EngineOptions(gpu_layers=ALL_LAYERS)


def sizes(engine: EngineOptions) -> Sizes:
    """Ten bytes a layer, five a process; the rest of the layers is in host memory."""
    gpus = [device for device in engine.devices if device != "host"]
    count = LAYERS + 1 if engine.gpu_layers == ALL_LAYERS else min(engine.gpu_layers, LAYERS + 1)
    count = count if gpus else 0
    shares = engine.split or (1.0,) * len(gpus)
    ends = [round(count * sum(shares[: n + 1]) / sum(shares)) for n in range(len(gpus))]
    held = {
        gpu: Footprint((end - start) * BY_LAYER, overhead=PROCESS)
        for gpu, start, end in zip(gpus, [0, *ends], ends, strict=False)
    }
    return held | {"host": Footprint((LAYERS + 1 - count) * BY_LAYER, overhead=1)}


def ways(options: EngineOptions, budgets: dict[str, int], linked: bool = False) -> tuple[Placement, ...]:
    return settle(plan(options, LAYERS, budgets, linked), sizes)


def counted(
    size: Callable[[EngineOptions], Sizes],
) -> tuple[Callable[[EngineOptions], Sizes], list[EngineOptions]]:
    asked: list[EngineOptions] = []

    def ask(engine: EngineOptions) -> Sizes:
        asked.append(engine)
        return size(engine)

    return ask, asked


def test_without_a_gpu_a_model_is_in_host_memory() -> None:
    (way,) = ways(AUTO, {"host": 1000})
    assert (way.engine.devices, way.engine.gpu_layers, way.warning) == (("host",), 0, None)
    assert way.bytes == {"host": 101}


def test_whole_on_each_gpu_that_holds_it_and_sized_once() -> None:
    ask, asked = counted(sizes)
    budgets = {"gpu0": 104, "gpu1": 105, "gpu2": 500, "host": 50}
    found = settle(plan(AUTO, LAYERS, budgets), ask)
    assert [way.engine.devices for way in found] == [("gpu1",), ("gpu2",)]
    assert [way.bytes for way in found] == [{"gpu1": 105, "host": 1}, {"gpu2": 105, "host": 1}]
    assert {way.engine.gpu_layers for way in found} == {ALL_LAYERS}
    assert len(asked) == 1


def test_split_by_layers_only_when_no_single_gpu_holds_it() -> None:
    (way,) = ways(AUTO, {"gpu0": 60, "gpu1": 60, "host": 50})
    assert way.engine.devices == ("gpu0", "gpu1")
    assert way.engine.split == (0.5, 0.5)
    assert way.bytes == {"gpu0": 55, "gpu1": 55, "host": 1}
    assert "split over gpu0 and gpu1, which is slower than one card" in str(way.warning)
    assert "no NVLink" in str(way.warning)
    (linked,) = ways(AUTO, {"gpu0": 60, "gpu1": 60, "host": 50}, linked=True)
    assert "NVLink" not in str(linked.warning)


def test_a_split_takes_as_few_gpus_as_hold_it_the_largest_first() -> None:
    (way,) = ways(ALL, {"gpu0": 30, "gpu1": 90, "gpu2": 50, "host": 50})
    assert way.engine.devices == ("gpu1", "gpu2")


def test_a_split_is_balanced_by_what_its_sizes_turn_out_to_be() -> None:
    def uneven(engine: EngineOptions) -> Sizes:
        """The first GPU also holds a buffer of 30 bytes."""
        held = dict(sizes(engine))
        if "gpu0" in held:
            held["gpu0"] = Footprint(held["gpu0"].weights, compute=30, overhead=PROCESS)
        return held

    (way,) = settle(plan(ALL, LAYERS, {"gpu0": 80, "gpu1": 80, "host": 9}), uneven)
    assert fits(way.bytes, {"gpu0": 80, "gpu1": 80})


def test_auto_leaves_to_the_host_what_the_gpu_does_not_hold_and_says_so() -> None:
    (way,) = ways(AUTO, {"gpu0": 47, "host": 100})
    assert (way.engine.gpu_layers, way.engine.devices) == (4, ("gpu0",))
    assert way.bytes == {"gpu0": 45, "host": 61}
    assert way.warning == (
        "4 of 10 layers fit the budget of gpu0; the others are computed from host memory, which is much slower"
    )


def test_auto_on_a_gpu_that_holds_no_layer_is_host_memory_alone() -> None:
    (way,) = ways(AUTO, {"gpu0": 3, "host": 200})
    assert (way.engine.devices, way.bytes) == (("host",), {"host": 101})
    assert "none of 10 layers fit" in str(way.warning)


def test_all_means_all_even_where_it_does_not_fit() -> None:
    (way,) = ways(ALL, {"gpu0": 47, "host": 500})
    assert (way.engine.gpu_layers, way.bytes["gpu0"]) == (ALL_LAYERS, 105)


def test_a_number_of_layers_is_taken_at_its_word() -> None:
    (way,) = ways(EngineOptions(gpu_layers=3), {"gpu0": 47, "host": 500})
    assert (way.engine.gpu_layers, way.bytes, way.warning) == (3, {"gpu0": 35, "host": 71}, None)
    (none,) = ways(EngineOptions(gpu_layers=0), {"gpu0": 47, "host": 500})
    assert none.engine.devices == ("host",)


BUDGETS = st.dictionaries(st.sampled_from(["gpu0", "gpu1", "gpu2", "host"]), st.integers(1, 150), min_size=1)


@given(BUDGETS, st.sampled_from([AUTO_LAYERS, ALL_LAYERS, 0, 3, 10]))
def test_there_always_is_a_way_and_it_names_devices_with_a_budget(
    budgets: dict[str, int], gpu_layers: int
) -> None:
    found = ways(EngineOptions(gpu_layers=gpu_layers), budgets)
    assert found
    for way in found:
        assert way.engine.gpu_layers != AUTO_LAYERS
        assert set(way.engine.devices) <= {*budgets, "host"}
        assert len(way.engine.split) in (0, len(way.engine.devices))


@given(st.integers(5, 150))
def test_auto_puts_the_most_layers_on_the_gpu_that_it_holds(budget: int) -> None:
    (way,) = ways(AUTO, {"gpu0": budget, "host": 500})
    count = LAYERS + 1 if way.engine.gpu_layers == ALL_LAYERS else way.engine.gpu_layers
    assert count == min((budget - PROCESS) // BY_LAYER, LAYERS + 1)


@pytest.mark.parametrize("layers", [0, 1, 33, 512])
def test_a_plan_asks_for_few_sizes(layers: int) -> None:
    def huge(engine: EngineOptions) -> Sizes:
        return {device: Footprint(10**9) for device in engine.devices}

    ask, asked = counted(huge)
    settle(plan(AUTO, layers, {"gpu0": 1, "gpu1": 1, "host": 1}), ask)
    assert len(asked) <= 1 + 3 + 10 + 1
