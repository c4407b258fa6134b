"""Which quantisations are exact enough for what."""

from __future__ import annotations

import itertools

import pytest

from router.registry.cloud_schema import QUANTS
from router.registry.quality import under, warning
from router.sizing.ggml_types import FILE_TYPES
from tests.registry.conftest import Folder


@pytest.mark.parametrize("worse", ["Q2_K", "Q3_K_L", "IQ4_XS", "Q4_0", "Q4_1", "Q4_K_S"])
@pytest.mark.parametrize("better", ["Q4_K_M", "Q5_0", "Q6_K", "Q8_0", "BF16"])
def test_the_order_is_the_one_that_people_know(worse: str, better: str) -> None:
    assert under(worse, better)
    assert not under(better, worse)


def test_what_an_operator_may_demand_is_in_order() -> None:
    assert [under(a, b) for a, b in itertools.pairwise(QUANTS)] == [True] * (len(QUANTS) - 1)


@pytest.mark.parametrize("name", ["unknown", "MXFP4_MOE", "NVFP4", ""])
def test_what_is_not_known_is_not_judged(name: str) -> None:
    assert not under(name, "F16")
    assert warning(name, "agentic") is None


def test_nearly_every_type_of_file_has_its_place() -> None:
    unknown = {name for name in FILE_TYPES.values() if not under(name, "F32") and name != "F32"}
    assert unknown == {"MXFP4_MOE", "NVFP4"}


def test_code_and_agents_are_warned_below_q4_k_m_and_chat_is_not() -> None:
    assert "Q4_K_M or better" in (warning("Q4_0", "code") or "")
    assert "agentic" in (warning("Q3_K_M", "agentic") or "")
    assert warning("Q4_K_M", "agentic") is None
    assert warning("Q2_K", "chat") is None
    assert warning("Q2_K", None) is None


def test_a_route_warns_of_candidates_that_are_not_exact_enough_and_may_demand_more(folder: Folder) -> None:
    folder.model("q3.gguf", file_type=12)
    folder.model("q4.gguf", file_type=15)
    text = "version: 1\nmodels: {a: {path: q3.gguf}, b: {path: q4.gguf}}\nroutes:\n  r: {candidates: [a, b], %s}\n"
    (line,) = folder.short(folder.load(text % "quality: agentic").warnings)
    assert line.startswith("registry.yaml:4:36: routes.r.quality: 'a': a Q3_K_M file loses the exactness")
    assert folder.load(text % "quality: reasoning").warnings == ()


def test_a_candidate_under_what_its_route_demands_is_broken_and_the_others_are_served(folder: Folder) -> None:
    folder.model("q3.gguf", file_type=12)
    folder.model("q6.gguf", file_type=18)
    registry = folder.load(
        "version: 1\nmodels: {a: {path: q3.gguf}, b: {path: q6.gguf}}\n"
        "routes:\n  r: {candidates: [a, b], min_quant: Q5_K_M}\n"
    )
    reason = "'a' is a Q3_K_M file, and the route demands Q5_K_M or better"
    assert {name: model.problem for name, model in registry.models.items()} == {"a": reason, "b": None}
    assert folder.short(registry.warnings) == [f"registry.yaml:4:38: routes.r.min_quant: {reason}"]
