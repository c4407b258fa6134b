"""Single values as people write them."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from router.registry import fields

NAMES = TypeAdapter(fields.Name)


@pytest.mark.parametrize("name", ["a", "llama-3.1-8b", "org/model:latest", "m@1+x", "x" * 128])
def test_names_that_clients_use_are_names(name: str) -> None:
    assert fields.NAME.fullmatch(name)
    assert NAMES.validate_python(name) == name


@pytest.mark.parametrize(
    "name", ["", "-a", "a/", "a b", "a\n", "ü", "x" * 129, "a//b", "a/../b", "*", "a\x00"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        NAMES.validate_python(name)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (fields.Sha256, "abc"),
        (fields.Text, "a\x07b"),
        (fields.Pause, "50ms"),
        (fields.Duration, 90),
        (fields.Ttl, "ever"),
        (fields.GpuLayers, 1001),
        (fields.DeviceBudget, "101%"),
    ],
)
def test_a_bad_value_is_refused_with_a_reason(kind: object, value: object) -> None:
    with pytest.raises(ValidationError, match=r"expected|at least"):
        TypeAdapter(kind).validate_python(value)
