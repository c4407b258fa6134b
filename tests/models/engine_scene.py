"""A real model behind an engine, and what a test wants to do with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from router.domain.generation import (
    ChatPrompt,
    Delta,
    EmbeddingRequest,
    GenerationRequest,
    Message,
    Prompt,
    SamplingParams,
)
from router.domain.models import EngineOptions
from router.engine import llama
from router.engine.engine import EmbeddingDone, Engine, Finished, Progressed


def open_engine(path: Path, **options: object) -> Engine:
    merged = {"context": 512, "slots": 4, "ubatch": 128} | options
    return Engine(llama.load(str(path), EngineOptions(**merged), lambda _: None))


def chat(text: str) -> ChatPrompt:
    return ChatPrompt((Message("user", text),))


def generate(engine: Engine, prompts: dict[str, Prompt], **sampling: object) -> dict[str, tuple[str, Delta]]:
    """All of them together; by id the whole text and the last delta."""
    for id, prompt in prompts.items():
        engine.add(engine.prepare(GenerationRequest(id, prompt, SamplingParams(**sampling))))
    texts, done = dict.fromkeys(prompts, ""), {}
    while engine.busy:
        for output in engine.step():
            assert isinstance(output, Progressed | Finished), output
            texts[output.id] += output.delta.text
            if isinstance(output, Finished):
                done[output.id] = (texts[output.id], output.delta)
    return done


def one(engine: Engine, prompt: Prompt, **sampling: object) -> tuple[str, Delta]:
    return generate(engine, {"one": prompt}, **sampling)["one"]


def embed(engine: Engine, *inputs: str | tuple[int, ...]) -> np.ndarray:
    engine.add(engine.prepare_embedding(EmbeddingRequest("embed", inputs)))
    while engine.busy:
        for output in engine.step():
            if isinstance(output, EmbeddingDone):
                return np.array([np.frombuffer(vector, "<f4") for vector in output.embeddings.vectors])
    raise AssertionError("no embeddings came")
