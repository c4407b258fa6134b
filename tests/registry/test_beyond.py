"""Cloud entries, peers and routes become upstreams and routes."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from router.domain.routes import Route, Spill
from router.domain.upstreams import Budget, KeySource, Price, Timeouts, Upstream
from router.registry import loader
from router.sizing.devices import Device
from tests.registry.conftest import Folder

EXAMPLES = Path(__file__).parents[2] / "config" / "examples"
MODEL = "version: 1\nmodels: {a: {path: a.gguf, cloud: spill, aliases: [default]}}\n"
BIG = "{base_url: 'https://api.example.com/v1/', model: gpt}"


def test_an_upstream_has_all_that_was_written(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIG_KEY", "secret")
    folder.model()
    registry = folder.load(
        MODEL
        + """
cloud:
  big:
    base_url: https://api.example.com/v1/
    model: gpt-large
    aliases: [gpt]
    api_key: {env: BIG_KEY}
    price: {input: 2.5, output: 10}
    budget: {day: 5, month: 50.25}
    max_tokens: 100
    max_tokens_field: max_completion_tokens
    context: 1000
    timeouts: {first_byte: 10s, total: 10m}
    ca_file: ca.pem
    data_collection: deny
keys:
  - {name: al, models: [gpt], cloud: true, budget: {day: 1}, rpm: 60,
     sha256: ABCDEF0000000000000000000000000000000000000000000000000000000001}
routes:
  r: {candidates: [default, gpt], aliases: [best]}
"""
    )
    assert registry.upstreams["big"] == Upstream(
        name="big",
        base_url="https://api.example.com/v1",
        model="gpt-large",
        api_key=KeySource("env", "BIG_KEY"),
        price=Price(Decimal("2.5"), Decimal(10)),
        budget=Budget(5_000_000, 50_250_000),
        budgets_by_key={"al": Budget(1_000_000)},
        ca_file=str(folder.root / "ca.pem"),
        timeouts=Timeouts(first_byte=10, total=600),
        max_tokens=100,
        max_tokens_field="max_completion_tokens",
        context=1000,
        retains=False,
    )
    assert registry.aliases == {"default": "a", "gpt": "big", "best": "r"}
    assert registry.routes["r"] == Route("r", ("a", "big"), ("best",), "fallback")
    assert (registry.keys[0].models, registry.keys[0].cloud, registry.keys[0].rpm) == (("gpt",), True, 60)


def test_a_peer_is_one_upstream_for_each_of_its_models(folder: Folder) -> None:
    folder.model()
    registry = folder.load(
        MODEL
        + "peers: {box: {base_url: 'http://10.0.0.2/v1', allow_private: true, models: [a, b]}}\n"
        + "routes: {r: {candidates: [box/a, a], spill: {max_wait: 5s, max_price: {input: 1, output: 2}}}}\n"
    )
    assert [(u.name, u.model, u.peer, u.price) for u in registry.upstreams.values()] == [
        ("box/a", "a", True, None),
        ("box/b", "b", True, None),
    ]
    assert registry.routes["r"].cloud == "spill"
    assert registry.routes["r"].spill == Spill(5, Price(Decimal(1), Decimal(2)))


def test_a_model_names_who_answers_instead_also_by_alias(folder: Folder) -> None:
    folder.model()
    registry = folder.load(
        "version: 1\nmodels:\n  a: {path: a.gguf, cloud: spill, fallback: [gpt, small], spill: {max_wait: 1s}}\n"
        "  b: {path: a.gguf, aliases: [small], cloud: fallback}\n"
        "cloud: {big: {base_url: 'https://x.example/v1', model: m, aliases: [gpt]}}\n".replace(
            "cloud: fallback", "cloud: spill"
        )
    )
    assert registry.models["a"].fallback == ("big", "b")
    assert registry.models["a"].spill == Spill(1)
    assert registry.models["b"].spill == Spill()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "cloud: {big: {base_url: 'http://10.0.0.1/v1', model: m}}",
            "cloud.big.base_url: http is for your own network",
        ),
        (
            f"cloud: {{big: {BIG[1:-1].join('{}')[:-1]}, budget: {{day: 1}}}}}}",
            "cloud.big.budget: a budget needs a price",
        ),
        (
            f"cloud: {{big: {BIG}}}\nroutes: {{r: {{candidates: [a, big], cloud: fallback, spill: {{max_wait: 1s}}}}}}",
            "routes.r.spill: spill needs cloud: spill, and the route says cloud: fallback",
        ),
        (
            "routes: {r: {candidates: [a], reasoning_effort: high}}",
            "routes.r.reasoning_effort: it is another way to ask for accuracy",
        ),
    ],
)
def test_what_does_not_go_together_is_told(folder: Folder, text: str, expected: str) -> None:
    folder.model()
    assert expected in "\n".join(folder.problems(MODEL + text))


def test_a_spill_on_a_model_that_does_not_spill_is_told(folder: Folder) -> None:
    folder.model()
    (problem,) = folder.problems("version: 1\nmodels: {a: {path: a.gguf, spill: {max_wait: 1s}}}")
    assert problem.endswith("models.a.spill: spill needs cloud: spill, and the model says never")


def test_keys_that_are_not_there_are_warned_of_and_never_shown(folder: Folder, tmp_path: Path) -> None:
    folder.model()
    registry = folder.load(
        MODEL
        + "cloud:\n"
        + "  b: {base_url: 'https://x.example/v1', model: m, api_key: {env: NO_SUCH_KEY_HERE}}\n"
        + "  c: {base_url: 'https://x.example/v1', model: m, api_key: {file: no-such-file}}\n"
        + "routes: {r: {candidates: [a, b, c]}}\n".replace("]}", "], spill: {}}")
    )
    assert folder.short(registry.warnings) == [
        "registry.yaml:4:60: cloud.b.api_key: the environment variable NO_SUCH_KEY_HERE is not set here",
        "registry.yaml:5:60: cloud.c.api_key: there is no such file, or it cannot be read",
    ]
    assert registry.upstreams["c"].api_key == KeySource("file", str(tmp_path / "no-such-file"))


def test_the_examples_say_what_their_comments_say() -> None:
    host = Device("host", "cpu", 2**40, 2**40)
    split = loader.load(EXAMPLES / "with-cloud.yaml", [host], EXAMPLES)
    assert split.routes["smart"] == Route(
        "smart", ("big", "chat"), cloud="fallback", accuracy="high", reasoning_effort="high"
    )
    assert split.routes["fast"].cloud == "spill"
    assert split.models["contracts"].cloud == "never"
    assert [key.cloud for key in split.keys] == [True, False]
    assert not [line for line in split.warnings if "api_key" not in line and "no such file" not in line]
    fleet = loader.load(EXAMPLES / "fleet.yaml", [host], EXAMPLES)
    assert list(fleet.upstreams) == ["box2/chat", "box2/large", "box2/vision", "box3/chat"]
    assert fleet.models["chat"].fallback == ("box2/chat", "box3/chat")
