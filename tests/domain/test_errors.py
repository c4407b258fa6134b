"""The error tree carries facts in plain words."""

from __future__ import annotations

import pytest

from router.domain import errors
from router.domain.errors import ContextOverflow, InvalidRequest, RegistryInvalid, RouterError, Unavailable


def test_every_error_is_a_router_error_with_a_message() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, Exception)]
    assert all(issubclass(kind, RouterError) for kind in kinds)
    assert str(RouterError("in words")) == RouterError("in words").message == "in words"


def test_an_unknown_model_names_the_nearest_ones() -> None:
    unknown = errors.UnknownModel("lama", ["llama", "gamma"])
    assert unknown.message == "The model 'lama' does not exist. Did you mean 'llama', 'gamma'?"
    assert (unknown.param, unknown.close) == ("model", ("llama", "gamma"))
    assert errors.UnknownModel("x").message == "The model 'x' does not exist."


def test_an_overflow_uses_the_words_that_agents_match() -> None:
    overflow = ContextOverflow(4096, 5000)
    assert "maximum context length is 4096 tokens" in overflow.message
    assert "resulted in 5000 tokens" in overflow.message
    assert isinstance(overflow, InvalidRequest)


@pytest.mark.parametrize(
    "kind",
    [
        errors.QueueFull,
        errors.LeaseTimeout,
        errors.DoesNotFit,
        errors.DoesNotFitNow,
        errors.LoadFailed,
        errors.WorkerCrashed,
        errors.ShuttingDown,
    ],
)
def test_what_is_unavailable_may_say_when_to_come_back(kind: type[Unavailable]) -> None:
    assert kind("later", 2.5).retry_after == 2.5
    assert kind("later").retry_after is None


def test_a_bad_registry_lists_all_its_problems() -> None:
    invalid = RegistryInvalid(["f:1:1: a", "f:2:1: b"])
    assert invalid.problems == ("f:1:1: a", "f:2:1: b")
    assert invalid.message == "f:1:1: a\nf:2:1: b"
