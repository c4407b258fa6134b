"""An engine over the echo backend, and what a test wants to do with one."""

from __future__ import annotations

from collections.abc import Callable

from router.domain.generation import (
    Delta,
    EmbeddingRequest,
    Embeddings,
    GenerationRequest,
    SamplingParams,
    TextPrompt,
)
from router.domain.models import EngineOptions
from router.engine import echo
from router.engine.engine import Broken, EmbeddingDone, Engine, Finished, Output, Progressed


class Scene:
    """Collects what each request was told."""

    def __init__(self, script: str = "echo:", **options: int) -> None:
        self.backend = echo.load(
            script, EngineOptions(**{"context": 100, "slots": 2} | options), lambda _: None
        )
        self.engine = Engine(self.backend, random_seed=lambda: 1)
        self.text: dict[str, str] = {}
        self.last: dict[str, Delta] = {}
        self.embeddings: dict[str, Embeddings] = {}
        self.broken: dict[str, str] = {}

    def add(self, id: str, text: str = "hello", **sampling: object) -> None:
        request = GenerationRequest(id, TextPrompt(text), SamplingParams(**sampling))
        self.engine.add(self.engine.prepare(request))

    def embed(self, id: str, *inputs: str | tuple[int, ...]) -> None:
        self.engine.add(self.engine.prepare_embedding(EmbeddingRequest(id, inputs)))

    def step(self) -> list[Output]:
        outputs = self.engine.step()
        for output in outputs:
            match output:
                case Progressed(id, delta) | Finished(id, delta):
                    assert id not in self.last, "nothing comes after the last delta"
                    self.text[id] = self.text.get(id, "") + delta.text
                    if isinstance(output, Finished):
                        self.last[id] = delta
                case EmbeddingDone(id, embeddings):
                    self.embeddings[id] = embeddings
                case Broken(id, message):
                    self.broken[id] = message
        return outputs

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        for _ in range(10_000):
            if until() or not self.engine.busy:
                return
            self.step()
        raise AssertionError("the engine does not come to an end")
