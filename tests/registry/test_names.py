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


def test_models_cloud_entries_routes_and_peers_share_one_namespace() -> None:
    assert found(
        "models: {a: {}, box/m: {}}\ncloud: {a: {aliases: [r]}}\nroutes: {r: {aliases: [x]}, a: {aliases: [x]}}\n"
        "peers: {box: {models: [m, m]}}\n"
    ) == [
        "f:2:9: cloud.a: 'a' is the name of a model already",
        "f:3:29: routes.a: 'a' is the name of a model already",
        "f:4:24: peers.box.models[0]: 'box/m' is the name of a model already",
        "f:4:27: peers.box.models[1]: 'box/m' is the name of a model already",
        "f:2:23: cloud.a.aliases[0]: 'r' is the name of a route already",
        "f:3:43: routes.a.aliases[0]: 'x' is an alias of 'r' already",
    ]


def test_candidates_and_fallbacks_are_names_or_aliases_of_what_can_answer_each_once() -> None:
    assert found(
        "models: {alpha: {aliases: [x], fallback: [alpha, big, beta, beta]}, beta: {}}\n"
        "cloud: {big: {aliases: [gpt]}}\npeers: {box: {models: [m]}}\n"
        "routes:\n  r: {candidates: [alpha, x, gpt, box/m, alfa, r, box]}\n"
    ) == [
        "f:5:27: routes.r.candidates[1]: 'alpha' is among the candidates already",
        "f:5:42: routes.r.candidates[4]: no model, cloud entry or alias 'alfa'; did you mean 'alpha'?",
        "f:5:48: routes.r.candidates[5]: 'r' is a route: routes hold models, not other routes",
        "f:5:51: routes.r.candidates[6]: no model, cloud entry or alias 'box'; did you mean 'box/m'?",
        "f:1:43: models.alpha.fallback[0]: 'alpha' is among the candidates already",
        "f:1:61: models.alpha.fallback[3]: 'beta' is among the candidates already",
    ]


def test_a_key_may_name_routes_and_upstreams() -> None:
    assert found("models: {a: {}}\ncloud: {b: {}}\nroutes: {c: {}}\nkeys: [{models: [b, c, a]}]") == []


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
        "keys: {a: 1}\nmodels: {a: {aliases: [1], fallback: 3}}",
        "cloud: 3\nroutes: [1]\npeers: {a: 1, b: {models: 3}, c: {models: [1]}}",
        "routes: {a: 1, b: {candidates: {x: 1}}, c: {candidates: [1]}}",
    ):
        assert found(text) == []


def test_limits_that_contradict_each_other_are_told_at_the_one_that_was_written() -> None:
    text = parse(b"limits: {backoff: 400s}")
    (problem,) = names.limits(text, Limits(backoff=400))
    assert problem.line("f") == "f:1:19: limits.backoff: backoff (400s) is over backoff_max (300s)"
    assert names.limits(text, Limits()) == []
