"""A real model in a real worker process, through the launcher."""

from __future__ import annotations

import math
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.domain.errors import ContextOverflow, LoadFailed, ModelRefused
from router.domain.generation import (
    ChatPrompt,
    EmbeddingRequest,
    FinishReason,
    GenerationRequest,
    Message,
    SamplingParams,
    TextPrompt,
)
from router.domain.models import EngineOptions
from router.registry.files import look
from router.runtime.launcher import ProcessLauncher
from router.runtime.spares import Spares
from router.sizing.parts import identity
from router.telemetry import Metrics
from tests.engine import tiny
from tests.local import heard, launch, local_model, quiet

pytestmark = [pytest.mark.model, pytest.mark.process]

OPTIONS = EngineOptions(context=512, slots=2)


@pytest.fixture
async def launcher() -> AsyncIterator[ProcessLauncher]:
    async with Spares(1) as spares:
        yield ProcessLauncher(spares, Metrics())


def status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


async def test_a_real_model_chats_embeds_and_holds_what_its_dry_run_said(
    launcher: ProcessLauncher, smollm2: Path
) -> None:
    model = local_model("m", str(smollm2), engine=OPTIONS, file=identity([smollm2]))
    planned, message = await launcher.dry_run(model.path, OPTIONS)
    assert message == ""
    chat = ChatPrompt((Message("user", "What is the capital of France?"),))
    greedy = SamplingParams(temperature=0, max_tokens=10)
    fractions: list[float] = []
    async with launch(launcher, "m#1", model, heard(fractions)) as worker:
        held, foretold = worker.resident["host"], planned["host"]
        assert (held.weights, held.kv_cache, held.compute) == (
            foretold.weights,
            foretold.kv_cache,
            foretold.compute,
        )
        assert held.total == pytest.approx(foretold.total, rel=0.02)
        assert worker.resident["host"].weights > 50 * 2**20
        counted = [
            delta.text
            async for delta in worker.generate(GenerationRequest("0", TextPrompt("1, 2, 3, 4, 5,"), greedy))
        ]
        deltas = [delta async for delta in worker.generate(GenerationRequest("1", chat, greedy))]
        embeddings = await worker.embed(EmbeddingRequest("2", ("Paris", "a cat", "a kitten")))
        with pytest.raises(ContextOverflow):
            await anext(worker.generate(GenerationRequest("3", TextPrompt("word " * 2000))))
    assert "".join(counted).startswith(" 6, 7, 8,")
    assert "".join(delta.text for delta in deltas)
    assert deltas[-1].finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
    assert deltas[-1].usage is not None
    assert sum(delta.tokens for delta in deltas) == deltas[-1].usage.completion_tokens
    vectors = [struct.unpack(f"<{embeddings.dimensions}f", vector) for vector in embeddings.vectors]
    assert [math.isclose(math.hypot(*vector), 1, rel_tol=1e-3) for vector in vectors] == [True] * 3
    assert fractions[-1] == 1.0
    assert (await launcher.build()).startswith("llama-cpp-python ")


async def test_a_real_model_is_served_with_every_layer_of_the_sandbox(
    launcher: ProcessLauncher, smollm2: Path
) -> None:
    model = local_model("m", str(smollm2), engine=OPTIONS, file=identity([smollm2]))
    greedy = SamplingParams(temperature=0, max_tokens=5)
    async with launch(launcher, "m#1", model, quiet) as worker:
        status = status_of(worker.pid)
        deltas = [d async for d in worker.generate(GenerationRequest("0", TextPrompt("1, 2, 3,"), greedy))]
    assert "".join(delta.text for delta in deltas).startswith(" 4")
    assert "NoNewPrivs:\t1\n" in status
    assert "Seccomp:\t2\n" in status


async def test_a_model_in_three_parts_is_read_watched_and_served(
    launcher: ProcessLauncher, tmp_path: Path
) -> None:
    tiny.llama(tmp_path / "m.gguf", split=8)
    (first, *others) = sorted(tmp_path.glob("m-*.gguf"))  # noqa: ASYNC240
    assert len(others) == 2
    found = look(first)
    assert found.problem is None
    model = local_model("m", str(first), engine=OPTIONS, file=found.identity)
    async with launch(launcher, "m#1", model, quiet) as worker:
        request = GenerationRequest("0", TextPrompt("ab"), SamplingParams(temperature=0, max_tokens=2))
        assert [delta async for delta in worker.generate(request)]
    others[-1].write_bytes(others[-1].read_bytes()[:-1])
    with pytest.raises(LoadFailed, match="was replaced"):
        async with launch(launcher, "m#2", model, quiet):
            raise AssertionError("it was launched")


@pytest.mark.parametrize("keep", [0, 100, 2**20, 90 * 2**20], ids=["empty", "header", "start", "most"])
async def test_a_truncated_file_is_a_failed_load_and_no_dry_run(
    launcher: ProcessLauncher, smollm2: Path, tmp_path: Path, keep: int
) -> None:
    broken = tmp_path / "broken.gguf"
    with smollm2.open("rb") as whole:
        broken.write_bytes(whole.read(keep))
    try:
        footprint, message = await launcher.dry_run(str(broken), OPTIONS)
    except ModelRefused as refusal:
        footprint, message = None, refusal.message
    assert footprint is None or keep > 2**20  # the plan reads no weights
    assert message or footprint
    with pytest.raises(LoadFailed):
        async with launch(launcher, "m#1", local_model("m", str(broken), engine=OPTIONS), quiet):
            raise AssertionError("it was launched")
