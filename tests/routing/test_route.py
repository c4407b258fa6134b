"""Names to models."""

from __future__ import annotations

import pytest

from router.domain.errors import UnknownModel
from router.routing.route import resolve
from tests.scene import A, B, registry


def test_a_model_is_found_by_its_name_and_by_its_aliases() -> None:
    assert resolve(registry(A, B), A.name) == A
    assert resolve(registry(A, B), "default") == A


def test_an_unknown_name_is_answered_with_the_nearest_ones() -> None:
    with pytest.raises(UnknownModel) as unknown:
        resolve(registry(A, B), "DEFAULTS")
    assert unknown.value.close == ("default",)
    assert "'default'" in unknown.value.message


def test_a_name_like_no_other_gets_no_hint() -> None:
    with pytest.raises(UnknownModel) as unknown:
        resolve(registry(A, B), "zzzzzzzzzz")
    assert unknown.value.close == ()


def test_an_endless_name_is_cut_in_the_answer_and_compared_with_none() -> None:
    with pytest.raises(UnknownModel) as unknown:
        resolve(registry(A, B), "default" * 100_000)
    assert len(unknown.value.message) < 300
    assert unknown.value.close == ()
