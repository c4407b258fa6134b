"""What a model says, else what the defaults say."""

from __future__ import annotations

from typing import Any

from router.domain.models import ALL_LAYERS, AUTO_LAYERS, Limits
from router.registry import schema
from router.registry.defaults import DEFAULT_TTL, Said, as_written, limits_of, meant, params


def model(**keys: Any) -> schema.Model:
    return schema.Model.model_validate({"path": "a.gguf", **keys})


def engine(**keys: Any) -> schema.Engine:
    return schema.Engine.model_validate(keys)


def test_the_model_is_heard_before_the_defaults() -> None:
    said = Said(model(slots=2), engine(slots=8, ubatch=64))
    assert said.chosen("slots", "ubatch", "context") == {"slots": 2, "ubatch": 64}


def test_never_is_a_word_and_not_silence() -> None:
    assert Said(model(ttl="never"), engine(ttl="5m")).ttl() is None
    assert Said(model(), engine(ttl="5m")).ttl() == 300
    assert Said(model(), engine()).ttl() == DEFAULT_TTL


def test_layers_are_a_number_auto_or_all() -> None:
    assert [meant(layers) for layers in (7, "auto", "all")] == [7, AUTO_LAYERS, ALL_LAYERS]


def test_later_params_win_and_limits_fill_up() -> None:
    first, second = model(params={"top_k": 1, "stop": "a"}).params, model(params={"top_k": 2}).params
    found = params(first, second, None)
    assert (found.top_k, found.stop, found.temperature) == (2, ("a",), None)
    assert limits_of(None) == Limits()
    assert limits_of(schema.Limits.model_validate({"max_waiting": 7})) == Limits(max_waiting=7)


def test_only_what_forces_a_new_process_counts_as_written() -> None:
    assert as_written(model(ttl="1m", cloud="fallback"), None) == as_written(model(), None)
    assert as_written(model(slots=2), None) != as_written(model(), None)
    assert as_written(model(), engine(slots=2)) != as_written(model(), engine())
