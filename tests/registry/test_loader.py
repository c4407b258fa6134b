from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.domain.errors import RegistryInvalid
from router.domain.models import ALL_LAYERS, AUTO_LAYERS, EngineOptions, Limits, LocalModel, SamplingDefaults
from router.registry import fit, loader
from router.registry.loader import Key
from router.sizing.devices import Device
from tests.registry.conftest import GPU, HOST, Folder
from tests.sizing.conftest import write

CONFIG = Path(__file__).parents[2] / "config"
ONE = "version: 1\nmodels:\n  a: {path: a.gguf}\n"


def test_the_least_registry_gets_every_default(folder: Folder) -> None:
    path = folder.model(context=100_000)
    registry = folder.load(ONE)
    model = registry.models["a"]
    assert model == LocalModel(
        name="a",
        path=str(path),
        placements=model.placements,
        engine=EngineOptions(context=4096, slots=4, gpu_layers=AUTO_LAYERS),
        file=model.file,
        card=model.card,
    )
    (way,) = model.placements
    assert (way.engine.devices, way.engine.gpu_layers, list(way.footprints)) == (("host",), 0, ["host"])
    assert model.footprint.total > 0
    assert registry.budgets == {HOST.name: 500_000_000}
    assert (registry.keys, registry.limits, registry.warnings) == ((), Limits(), ())
    assert registry.aliases == {}


def test_what_a_model_says_beats_the_defaults(folder: Folder) -> None:
    folder.model()
    registry = folder.load(
        """
version: 1
defaults:
  {context: 500, slots: 2, ttl: never, kv_type: q8_0, ubatch: 64, params: {temperature: 0.1, top_k: 5}}
limits: {max_wait: 1m, patience: 0s, failures: 7}
models:
  b: {path: a.gguf, aliases: [x, z]}
  a:
    path: a.gguf
    context: 1000
    slots: 1
    ttl: 90s
    kv_type: q4_0
    flash_attention: off
    pinned: true
    preload: true
    priority: -3
    sha256: "ABCDEF0000000000000000000000000000000000000000000000000000000000"
    params: {temperature: 0, stop: END}
keys:
  - {name: al, sha256: ABCDEF0000000000000000000000000000000000000000000000000000000001, models: [x, b, a]}
"""
    )
    first, second = registry.models.values()
    assert [first.name, second.name] == ["b", "a"]
    assert first.engine == EngineOptions(500, 2, AUTO_LAYERS, "q8_0", ubatch=64)
    assert first.ttl is None
    assert first.params == SamplingDefaults(temperature=0.1, top_k=5)
    assert second.engine == EngineOptions(1000, 1, AUTO_LAYERS, "q4_0", "off", 64)
    assert (second.ttl, second.pinned, second.preload, second.priority) == (90, True, True, -3)
    assert second.params == SamplingDefaults(temperature=0.0, top_k=5, stop=("END",))
    assert second.sha256 == "abcdef" + "0" * 58
    assert registry.aliases == {"x": "b", "z": "b"}
    assert registry.limits == Limits(max_wait=60, patience=0, failures=7)
    assert registry.keys == (Key("al", "abcdef" + "0" * 57 + "1", ("x", "b", "a")),)


def test_a_default_context_stops_at_the_models_own(folder: Folder) -> None:
    folder.model(context=1000)
    assert folder.load(ONE).models["a"].engine.context == 1000
    assert folder.load("defaults: {context: 9000}\n" + ONE).models["a"].engine.context == 1000


def test_a_context_over_the_models_own_breaks_that_model_alone_and_is_told_at_its_line(
    folder: Folder,
) -> None:
    folder.model(context=1000)
    text = "version: 1\nmodels:\n  a:\n    path: a.gguf\n    context: 1001\n  b: {path: a.gguf}\n"
    registry = folder.load(text)
    reason = "the model was made for 1000 tokens at most, got 1001"
    assert {name: model.problem for name, model in registry.models.items()} == {"a": reason, "b": None}
    assert folder.short(registry.warnings) == [f"registry.yaml:5:14: models.a.context: {reason}"]
    assert folder.short([registry.say("a", "x")]) == ["registry.yaml:5:14: models.a.context: x"]


def test_all_problems_of_all_kinds_come_at_once_in_the_order_of_the_file(folder: Folder) -> None:
    folder.model(context=1000)
    text = """version: 1
models:
  a: {path: a.gguf, contxt: 3}
  b: {path: a.gguf, context: 2000, aliases: [a]}
  c: {path: a.gguf, slots: 017}
  d: {path: a.gguf, context: eight}
"""
    assert folder.problems(text) == [
        "registry.yaml:3:21: models.a.contxt: unknown key; did you mean context?",
        "registry.yaml:4:30: models.b.context: the model was made for 1000 tokens at most, got 2000",
        "registry.yaml:4:46: models.b.aliases[0]: 'a' is the name of a model already",
        "registry.yaml:5:28: models.c.slots: 017 unquoted is ambiguous: "
        "some YAML readers take the leading zero for octal; write a number plainly, put text in quotes",
        "registry.yaml:6:30: models.d.context: expected an integer, got 'eight'",
    ]


def test_a_flood_of_problems_is_cut(folder: Folder) -> None:
    lines = folder.problems("version: 1\nmodels:\n" + "".join(f"  m{n}: 3\n" for n in range(500)))
    assert len(lines) == 101
    assert lines[-1] == "registry.yaml: and 400 more problems"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "registry.yaml:1:1: the file is empty"),
        ("version: 1\nmodels: {}\n", "registry.yaml:2:9: models: expected at least 1 entry, got none"),
        (
            "devices: {gpu7: {budget: 80%}}\n" + ONE,
            "registry.yaml:1:17: devices.gpu7: a share needs a device",
        ),
        (
            "devices: {gpu0: {budget: 9GiB, max_temperature: 40}}\n" + ONE,
            "registry.yaml:1:49: devices.gpu0.max_temperature: expected at least 50",
        ),
        (
            "devices: {gpu0: {budget: 9GiB, max_temperature: 84%}}\n" + ONE,
            "registry.yaml:1:49: devices.gpu0.max_temperature: expected an integer",
        ),
        (
            "devices: {host: {budget: 1GiB, max_temperature: 84}}\n" + ONE,
            "registry.yaml:1:17: devices.host: the host takes no max_temperature",
        ),
        ("limits: {backoff: 400s}\n" + ONE, "registry.yaml:1:19: limits.backoff: backoff (400s) is over"),
        (ONE + "keys: [{name: k, sha256: '" + "0" * 64 + "', models: [b]}]", "no model or alias 'b'"),
    ],
)
def test_each_wrong_text_is_refused_with_its_place(folder: Folder, text: str, expected: str) -> None:
    folder.model()
    assert any(expected in line for line in folder.problems(text))


def test_a_file_that_cannot_be_read_is_refused_in_words(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, reason in {
        tmp_path / "nowhere.yaml": "there is no such file",
        tmp_path: "this is a directory",
        fifo: "this is not a regular file",
        Path("/dev/zero"): "this is not a regular file",
    }.items():
        with pytest.raises(RegistryInvalid) as caught:
            loader.load(path, [HOST], tmp_path)
        assert caught.value.problems[0].startswith(f"{path}:1:1: {reason}")


def test_a_broken_file_marks_its_model_and_no_other(folder: Folder) -> None:
    folder.model()
    registry = folder.load(ONE + "  b: {path: b.gguf}\n")
    assert registry.models["a"].problem is None
    assert registry.models["b"].problem == f"no such file: {folder.root}/b.gguf"
    assert folder.short(registry.warnings) == ["registry.yaml:4:13: models.b.path: no such file: b.gguf"]
    assert registry.say("b", "why").endswith("registry.yaml:4:3: models.b: why")


def test_a_rough_quantization_for_agents_is_a_warning(folder: Folder) -> None:
    folder.model("q2.gguf", file_type=10)
    folder.model("q4.gguf", file_type=15)
    registry = folder.load(
        "version: 1\nmodels:\n"
        "  a: {path: q2.gguf, quality: agentic}\n"
        "  b: {path: q2.gguf, quality: classify}\n"
        "  c: {path: q4.gguf, quality: agentic}\n"
    )
    (warning,) = folder.short(registry.warnings)
    assert warning.startswith("registry.yaml:3:31: models.a.quality: a Q2_K file loses")


def test_layers_are_meant_by_the_registry_and_placed_by_the_device(folder: Folder) -> None:
    folder.model()
    text = ONE + "  b: {path: a.gguf, gpu_layers: 1}\n  c: {path: a.gguf, gpu_layers: all}\n"
    on_gpu, on_host = folder.load(text, [GPU]), folder.load(text, [HOST])
    for registry in (on_gpu, on_host):
        assert [m.engine.gpu_layers for m in registry.models.values()] == [AUTO_LAYERS, 1, ALL_LAYERS]
    assert [placed(m) for m in on_gpu.models.values()] == [
        (("gpu0",), ALL_LAYERS),
        (("gpu0",), 1),
        (("gpu0",), ALL_LAYERS),
    ]
    assert [placed(m) for m in on_host.models.values()] == [(("host",), 0)] * 3
    assert folder.short(on_host.warnings) == [
        "registry.yaml:4:6: models.b: gpu_layers has no effect: there is no GPU among the devices"
    ]
    beside_gpu = folder.load("devices: {host: {budget: 1GB}}\n" + text, [GPU])
    assert [placed(m) for m in beside_gpu.models.values()] == [(("host",), 0)] * 3
    assert on_gpu.models["a"].fingerprint == on_host.models["a"].fingerprint


def placed(model: LocalModel) -> tuple[tuple[str, ...], int]:
    return model.placements[0].engine.devices, model.placements[0].engine.gpu_layers


def test_a_model_on_a_gpu_takes_of_the_host_as_well(folder: Folder) -> None:
    folder.model()
    registry = folder.load(ONE, [GPU, HOST])
    assert list(registry.budgets) == ["gpu0", "host"]
    (way,) = registry.models["a"].placements
    assert way.footprints["gpu0"].overhead > 0
    assert way.footprints["host"].weights == 8 * 32 * 4


def test_layers_that_do_not_fit_stay_off_the_gpu(folder: Folder) -> None:
    folder.model()
    need = folder.load(ONE, [GPU]).models["a"].placements[0].bytes["gpu0"]
    tight = folder.load(f"devices: {{gpu0: {{budget: {need - 1}}}}}\n" + ONE, [GPU]).models["a"]
    assert 0 <= tight.placements[0].engine.gpu_layers < 2
    assert tight.placements[0].bytes.get("gpu0", 0) < need
    assert "of 2 layers fit the budget of gpu0" in str(tight.placements[0].warning)


def test_a_model_that_no_single_gpu_holds_is_split_over_two(folder: Folder) -> None:
    folder.model()
    need = folder.load(ONE, [GPU]).models["a"].placements[0].bytes["gpu0"]
    devices = f"devices: {{gpu0: {{budget: {need - 1}}}, gpu1: {{budget: {need - 1}}}}}\n"
    other = Device("gpu1", "cuda", 24 * 2**30, 23 * 2**30)
    (way,) = folder.load(devices + ONE, [GPU, other]).models["a"].placements
    assert way.engine.devices == ("gpu0", "gpu1")
    assert "split over gpu0 and gpu1" in str(way.warning)


def test_a_model_without_a_file_is_placed_somewhere_all_the_same(folder: Folder) -> None:
    registry = folder.load(ONE, [GPU])
    (way,) = registry.models["a"].placements
    assert way.engine.gpu_layers == 0
    assert way.bytes == {"gpu0": 0}


def test_sliding_layers_are_sized_as_the_engine_runs_them(folder: Folder) -> None:
    fields = {"gemma3.block_count": 6, "gemma3.embedding_length": 64, "gemma3.attention.head_count": 4}
    fields |= {"gemma3.attention.sliding_window": 128, "gemma3.context_length": 8192}
    write(folder.root / "a.gguf", architecture="gemma3", fields=fields)
    text = "version: 1\nmodels:\n  a: {path: a.gguf, context: 8192, slots: 1}\n"
    (way,) = folder.load(text).models["a"].placements
    cells = 5 * 768 + 8192  # a window of 128 and a micro-batch of 512, padded; the sixth layer sees all
    assert way.footprints["host"].kv_cache == cells * 64 * 2 * 2


def test_a_new_file_under_the_same_name_is_another_fingerprint(folder: Folder) -> None:
    folder.model()
    before = folder.load(ONE).models["a"].fingerprint
    assert folder.load(ONE).models["a"].fingerprint == before
    folder.model(width=64)
    assert folder.load(ONE).models["a"].fingerprint != before


def test_what_needs_no_new_process_leaves_what_was_written_equal(folder: Folder) -> None:
    folder.model()
    before = folder.load(ONE).written["a"]
    same = folder.load("version: 1\nmodels:\n  a: {path: a.gguf, ttl: 1m, aliases: [b], pinned: true}\n")
    other = folder.load("version: 1\nmodels:\n  a: {path: a.gguf, slots: 2}\n")
    assert same.written["a"] == before
    assert other.written["a"] != before


@pytest.mark.parametrize("path", sorted(CONFIG.rglob("*.yaml")), ids=lambda path: path.name)
@pytest.mark.parametrize("device", [HOST, GPU], ids=lambda device: device.name)
def test_every_example_loads_on_every_machine(path: Path, device: loader.Device, tmp_path: Path) -> None:
    registry = loader.load(path, [device], tmp_path)
    assert registry.models
    assert path.read_text().startswith("# yaml-language-server: $schema=")
    schema = path.parent / path.read_text().splitlines()[0].partition("=")[2]
    assert schema.resolve() == (CONFIG / "registry.schema.json").resolve()


@pytest.mark.model
def test_the_demo_holds_any_one_of_its_models_and_the_small_ones_but_not_all(
    demo_models: dict[str, Path],
) -> None:
    cache = demo_models["q4_1"].parents[1]
    registry = fit.judge(loader.load(CONFIG / "registry.yaml", [HOST], cache))
    assert registry.warnings == ()
    small, medium, large = (model.footprint.total for model in registry.models.values())
    assert small + medium <= registry.budgets["host"] < small + large
    assert large <= registry.budgets["host"]


# Garbage --------------------------------------------------------------------------------------------------

WORDS = [
    "version",
    "cloud",
    "routes",
    "peers",
    "candidates",
    "fallback",
    "models",
    "a",
    "path",
    "a.gguf",
    "context",
    "1",
    "4096",
    "no",
    "017",
    "&x",
    "*x",
    "!t",
    "<<",
    "80%",
]
WORDS += [
    "defaults",
    "devices",
    "host",
    "budget",
    "limits",
    "keys",
    "sha256",
    "aliases",
    "params",
    "stop",
    "ttl",
    "10m",
]
MARKS = [
    ": ",
    "\n",
    "\n  ",
    "\n    ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    "'",
    '"',
    "#",
    "|",
    "? ",
    "\t",
    "---\n",
    "%",
    "\0",
]
yamlish = st.lists(st.sampled_from(WORDS + MARKS), max_size=60).map("".join)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(WORDS)
)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | scalars, inner, max_size=4)
    ),
    max_leaves=20,
)
shaped = st.fixed_dictionaries(
    {
        "version": st.just(1) | scalars,
        "models": st.dictionaries(st.sampled_from(["a", "b c", "x"]), trees, max_size=3),
    },
    optional=dict.fromkeys(("devices", "limits", "defaults", "keys", "host", "zzz"), trees),
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    yamlish.map(str.encode)
    | st.binary(max_size=200)
    | (trees | shaped).map(lambda t: yaml.safe_dump(t).encode())
)
def test_no_garbage_raises_anything_but_a_refusal_with_places(folder: Folder, data: bytes) -> None:
    folder.file.write_bytes(data)
    try:
        loader.load(folder.file, [HOST], folder.cache)
    except RegistryInvalid as error:
        assert error.problems
        for line in error.problems:
            assert line.startswith(f"{folder.file}:")
            assert "\n" not in line
