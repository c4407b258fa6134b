from __future__ import annotations

from router.domain.models import Limits
from router.registry import names
from router.registry.document import parse


def found(text: str) -> list[str]:
    return [problem.line("f") for problem in names.problems(parse(text.encode()))]


def test_an_alias_names_one_model_only() -> None:
    assert found("models:\n  a: {aliases: [x, b]}\n  b: {aliases: [x, y, y]}\n") == [
        "f:2:20: models.a.aliases[1]: 'b' is the name of a model already",
        "f:3:17: models.b.aliases[0]: 'x' is an alias of 'a' already",
        "f:3:23: models.b.aliases[2]: 'y' is an alias of 'b' already",
    ]


def test_a_key_names_models_that_exist() -> None:
    assert found("models: {alpha: {aliases: [x]}}\nkeys: [{models: ['*', alpha, x, alfa, q]}]") == [
        "f:2:33: keys[0].models[3]: no model or alias 'alfa'; did you mean 'alpha'?",
        "f:2:39: keys[0].models[4]: no model or alias 'q'",
    ]


def test_two_keys_share_neither_name_nor_secret() -> None:
    assert found("keys:\n- {name: al, sha256: AB}\n- {name: al, sha256: ab}\n") == [
        "f:3:10: keys[1].name: the same name as keys[0]",
        "f:3:22: keys[1].sha256: the same sha256 as keys[0]",
    ]


def test_a_tree_of_any_other_shape_is_somebody_elses_problem() -> None:
    for text in (
        "models: 3",
        "models: [1]",
        "models: {a: 3, b: {aliases: 1}}",
        "keys: {a: 1}\nmodels: {a: {aliases: [1]}}",
    ):
        assert found(text) == []


def test_limits_that_contradict_each_other_are_told_at_the_one_that_was_written() -> None:
    text = parse(b"limits: {backoff: 400s}")
    (problem,) = names.limits(text, Limits(backoff=400))
    assert problem.line("f") == "f:1:19: limits.backoff: backoff (400s) is over backoff_max (300s)"
    assert names.limits(text, Limits()) == []
