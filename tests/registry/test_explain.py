from __future__ import annotations

import pytest
from pydantic import ValidationError

from router.registry import document, explain, schema

MODEL = "version: 1\nmodels:\n  a: "


def explained(text: str) -> list[str]:
    read = document.parse(text.encode(), schema.WORDS)
    with pytest.raises(ValidationError) as caught:
        schema.RegistryFile.model_validate(read.value)
    problems = explain.problems(read, caught.value)
    return [problem.line("f") for problem in document.in_order([*read.problems, *problems])]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("{path: x, context: eight}", "f:3:25: models.a.context: expected an integer, got 'eight'"),
        ("{path: x, context: 1.5}", "f:3:25: models.a.context: expected an integer, got 1.5"),
        ("{path: x, context: true}", "f:3:25: models.a.context: expected an integer, got true"),
        ("{path: x, context: {b: 1}}", "f:3:25: models.a.context: expected an integer, got a mapping"),
        ("{path: x, slots: 10000}", "f:3:23: models.a.slots: expected at most 256, got 10000"),
        ("{path: x, contxt: 1}", "f:3:16: models.a.contxt: unknown key; did you mean context?"),
        (
            "{path: x, params: {temprature: 1}}",
            "f:3:25: models.a.params.temprature: unknown key; did you mean temp",
        ),
        (
            "{path: x, zzzz: 1}",
            "f:3:16: models.a.zzzz: unknown key; expected one of aliases, cloud, context,",
        ),
        ("{path: x, kv_type: q8}", "expected 'f16', 'q8_0' or 'q4_0', got 'q8'; did you mean 'q8_0'?"),
        ("{path: x, pinned: 1}", "f:3:24: models.a.pinned: expected true or false, got 1"),
        (
            "{path: x, ttl: 600}",
            "f:3:21: models.a.ttl: expected a duration such as 90s, 10m or 2h (write 600s); or never",
        ),
        ("{path: x, aliases: b}", "f:3:25: models.a.aliases: expected a list, got 'b'"),
        ("{path: x, aliases: [b, 3]}", "f:3:29: models.a.aliases[1]: expected text, got 3"),
        ("{path: x, params: {stop: [1]}}", "f:3:32: models.a.params.stop[0]: expected text, got 1"),
        ("{path: x, params: {temperature: 9}}", "models.a.params.temperature: expected at most 5, got 9"),
        ("{path: x, params: {top_p: 0}}", "models.a.params.top_p: expected above 0, got 0"),
        (
            "{path: x, cloud: always}",
            "f:3:23: models.a.cloud: expected 'never', 'fallback' or 'spill', got 'always'",
        ),
        (
            "{path: x, sha256: abc}",
            "f:3:24: models.a.sha256: expected the 64 hex digits of a sha256, got 'abc'",
        ),
        ("{context: 3000}", "f:3:3: models.a: the key 'path' is missing"),
        ("{path: 3}", "f:3:13: models.a.path: expected a path, {cache: file} or {package: name, file: file}"),
        ("{path: {hf: x, file: y}}", "f:3:13: models.a.path: expected a path"),
        ("{path: {hf: x, file: y}}", "{hf: ...} is not supported yet"),
        ("{path: {cache: 3}}", "f:3:21: models.a.path.cache: expected text, got 3"),
        ("{path: {cache: x, fil: z}}", "f:3:24: models.a.path.fil: unknown key"),
        ("{path: {package: x}}", "f:3:7: models.a.path: the key 'file' is missing"),
        ("{path: ''}", "f:3:13: models.a.path: expected text, got nothing"),
        ('{path: "a\\0b"}', "f:3:13: models.a.path: expected text without control characters"),
        ("[1]", "f:3:6: models.a: expected a mapping, got a list"),
        ("3", "f:3:6: models.a: expected a mapping, got 3"),
    ],
)
def test_each_fault_of_a_model_is_told_plainly_and_at_its_place(model: str, expected: str) -> None:
    found = explained(MODEL + model)
    assert any(expected in line for line in found), found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models: {a: {path: x}}", "f:1:1: the key 'version' is missing"),
        ("version: 1", "f:1:1: the key 'models' is missing"),
        (
            "version: 2\nmodels: {a: {path: x}}",
            "f:1:10: version: expected 1, the only version there is, got 2",
        ),
        ("version: true\nmodels: {a: {path: x}}", "f:1:10: version: expected 1"),
        ("version: 1\nmodels: {}", "f:2:9: models: expected at least 1 entry, got none"),
        ("version: 1\nmodels: {'a b': {path: x}}", "f:2:10: models.a b: expected 1 to 128 letters"),
        ("host: {kv_snapshots: 2GiB}", "f:1:1: host: host memory for KV snapshots is not supported yet"),
        ("cloud: {}", "f:1:8: cloud: expected at least 1 entry, got none"),
        ("routes: {a: {candidates: []}}", "f:1:26: routes.a.candidates: expected at least 1 entry, got none"),
        ("modles: {}", "f:1:1: modles: unknown key; did you mean models or routes?"),
        ("cloud: {a: {modle: x}}", "cloud.a.modle: unknown key; did you mean model?"),
        (
            "cloud: {a: {api_key: sk-123}}",
            "expected {env: NAME} or {file: path}: a key itself does not belong",
        ),
        ("devices: {a: {budget: 80}}", "f:1:23: devices.a.budget: 80 bytes? write 80% or 80GiB"),
        ("devices: {a: {budget: 9G}}", "f:1:23: devices.a.budget: expected a size such as 9GiB"),
        ("devices: {}", "f:1:10: devices: expected at least 1 entry, got none"),
        ("limits: {max_wait: 5}", "f:1:20: limits.max_wait: expected a duration"),
        ("limits: {max_wait: 0s}", "f:1:20: limits.max_wait: expected at least 100ms, got '0s'"),
        ("limits: {eviction: fifo}", "f:1:20: limits.eviction: expected 'cost' or 'lru', got 'fifo'"),
        ("limits: {hold_factor: -1}", "f:1:23: limits.hold_factor: expected at least 0"),
        ("limits: {aging: 5}", "f:1:17: limits.aging: expected a duration"),
        ("limits: {max_waitng: 5s}", "did you mean max_wait"),
        ("keys: []", "f:1:7: keys: expected at least 1 entry, got none"),
        ("keys: [{name: a, rpm: 0}]", "f:1:23: keys[0].rpm: expected at least 1, got 0"),
        ("keys: [{name: a}]", "f:1:8: keys[0]: the key 'sha256' is missing"),
    ],
)
def test_each_fault_elsewhere_is_told_plainly_and_at_its_place(text: str, expected: str) -> None:
    found = explained(text)
    assert any(expected in line for line in found), found


def test_what_the_text_itself_has_wrong_is_told_once() -> None:
    assert explained(MODEL + "{path: x, preload: yes, contxt: 1}") == [
        "f:3:25: models.a.preload: yes unquoted is a truth value to some YAML readers: "
        "write true or false; where it is text, put it in quotes",
        "f:3:30: models.a.contxt: unknown key; did you mean context?",
    ]


def test_pydantic_is_never_heard_of() -> None:
    text = MODEL + "{path: {cache: 1, x: 2}, context: [], params: 3, keys: 1, slots: -1, aliases: [[]]}"
    for line in explained(text):
        assert "pydantic" not in line
        assert "Input should" not in line
        assert "path:" not in line.split(": ", 2)[1]
