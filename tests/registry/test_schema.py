from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from pydantic import ValidationError

from router.domain.models import EngineOptions, Limits, SamplingDefaults
from router.registry import schema
from router.registry.quantities import Share

CONFIG = Path(__file__).parents[2] / "config"


def model(**keys: object) -> schema.Model:
    return schema.Model.model_validate({"path": "a.gguf", **keys})


def test_the_published_json_schema_is_fresh() -> None:
    written = json.loads((CONFIG / "registry.schema.json").read_text())
    assert written == schema.json_schema(), (
        "the registry's schema changed: run `router schema --write config/registry.schema.json`"
    )


def test_the_json_schema_knows_the_keys_says_what_they_mean_and_allows_no_null() -> None:
    text = json.dumps(schema.json_schema())
    assert '"null"' not in text
    written = schema.json_schema()["$defs"]["Model"]
    assert written["required"] == ["path"]
    assert written["additionalProperties"] is False
    assert "Never evicted" in written["properties"]["pinned"]["description"]


def test_limits_and_params_have_the_keys_of_the_domain() -> None:
    assert set(schema.Limits.model_fields) == set(Limits.__struct_fields__)
    assert set(schema.Params.model_fields) == set(SamplingDefaults.__struct_fields__)
    resolved = {"devices", "split"}  # a placement's, not the registry's
    assert set(EngineOptions.__struct_fields__) - resolved <= set(schema.Engine.model_fields)


def test_quantities_are_read() -> None:
    assert schema.Device.model_validate({"budget": "80%"}).budget == Share(0.8)
    assert schema.Device.model_validate({"budget": "9GiB"}).budget == 9 * 2**30
    assert schema.Limits.model_validate({"max_wait": "2m"}).max_wait == 120
    assert model(ttl="never").ttl is None
    assert "ttl" in model(ttl="never").model_fields_set
    assert model(gpu_layers="all").gpu_layers == "all"
    assert model(gpu_layers=12).gpu_layers == 12


def test_the_three_forms_of_a_path() -> None:
    assert model().path == "a.gguf"
    assert model(path={"cache": "a.gguf"}).path == schema.CachedFile(cache="a.gguf")
    packaged = {"package": "some_package", "file": "a.gguf"}
    assert model(path=packaged).path == schema.PackagedFile(package="some_package", file="a.gguf")


def test_one_stop_text_is_a_list_of_one() -> None:
    assert schema.Params.model_validate({"stop": "x"}).stop == ["x"]
    assert schema.Params.model_validate({"stop": ["x", "y"]}).stop == ["x", "y"]


@pytest.mark.parametrize(
    "keys",
    [
        {"context": 10**12},
        {"context": 0},
        {"context": True},
        {"context": "4096"},
        {"slots": 10_000},
        {"slots": 0},
        {"gpu_layers": -1},
        {"gpu_layers": "some"},
        {"gpu_layers": True},
        {"ubatch": 1},
        {"priority": 1000},
        {"pinned": 1},
        {"ttl": 600},
        {"sha256": "abc"},
        {"params": {"temperature": -0.1}},
        {"params": {"temperature": 5.1}},
        {"params": {"top_p": 0}},
        {"params": {"top_p": 1.1}},
        {"params": {"top_k": -1}},
        {"params": {"min_p": 2}},
        {"params": {"repeat_penalty": 0}},
        {"params": {"presence_penalty": 3}},
        {"params": {"frequency_penalty": -3}},
        {"params": {"seed": 2**32}},
        {"params": {"max_tokens": 0}},
        {"params": {"stop": []}},
        {"params": {"stop": [""]}},
        {"params": {"stop": ["x"] * 17}},
    ],
)
def test_values_that_make_no_sense_are_refused(keys: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        model(**keys)


def test_the_bounds_leave_room_for_what_people_do() -> None:
    params = {
        "temperature": 0,
        "top_p": 1,
        "top_k": 0,
        "min_p": 0,
        "repeat_penalty": 1.1,
        "seed": 0,
        "max_tokens": 1,
    }
    read = model(context=131_072, slots=64, ubatch=2048, params=params).params
    assert read is not None
    assert msgspec.convert(read.model_dump(exclude_none=True), SamplingDefaults).top_k == 0
