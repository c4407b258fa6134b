"""
A backend without a model: it repeats the prompt and ends. For tests of everything around it.

The one rule: it is stricter than llama.cpp about cache and batch, so an engine that passes here is right,
and it fails exactly as its script says. The path is the script, `echo:?step_ms=5&fail=exit_decode:3`:

* `load_ms`, `step_ms`: how long a load and a decode take.
* `weights`, `kv_cache`, `compute`: bytes that it claims to hold.
* `fail=load | oom_load | exit_load | hang_load`: the load raises, lacks memory, ends the process, never returns.
* `fail=exit_decode:N | abort_decode:N | hang_decode:N | raise_decode:N | oom_decode:N`: the N-th decode does so.
* `fail=garbage`: the first decode writes nonsense into every socket of the process.
* `fail=refuse:SLOT`: every batch that has tokens for that slot is refused, as llama.cpp refuses one.
* `fail=hang_read:N`: a text of more than N characters is never read to its end.
* `embeds=only`: it pools and does not generate.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

import numpy as np

from router.domain.generation import SamplingParams
from router.domain.models import EngineOptions, Footprint
from router.engine.batch import (
    DecodeFailed,
    EngineError,
    EngineFacts,
    Matrix,
    OutOfMemory,
    Sampler,
    Tokens,
    Work,
)

END = 256
"""The vocabulary is the 256 bytes and this."""
DIMENSIONS = 8
_TEMPLATE = "{{ messages[-1]['content'] }}"
_LOAD_PROGRESS_STEPS = 10
_NOTHING = Footprint()
_FAILURES = frozenset(
    [
        "load",
        "oom_load",
        "exit_load",
        "hang_load",
        "exit_decode",
        "abort_decode",
        "hang_decode",
        "hang_read",
        "raise_decode",
        "oom_decode",
        "garbage",
        "refuse",
    ]
) | {""}


@dataclass(frozen=True, slots=True)
class Script:
    """How an echo behaves. Times in seconds, sizes in bytes."""

    load: float = 0.0
    step: float = 0.0
    footprint: Footprint = _NOTHING
    failure: str = ""
    failure_at: int = 0
    embeds_only: bool = False


def script(path: str) -> Script:
    """Raises EngineError, naming the word that it does not know."""
    values = dict(parse_qsl(path.partition("?")[2], strict_parsing=False))
    failure, _, at = values.pop("fail", "").partition(":")
    known = ("load_ms", "step_ms", "weights", "kv_cache", "compute", "embeds")
    if unknown := set(values) - set(known):
        raise EngineError(f"The echo script has no {min(unknown)!r}.")
    if failure not in _FAILURES:
        raise EngineError(f"The echo script cannot fail by {failure!r}.")
    try:
        return Script(
            load=float(values.get("load_ms", 0)) / 1000,
            step=float(values.get("step_ms", 0)) / 1000,
            footprint=Footprint(*(int(values.get(name, 0)) for name in ("weights", "kv_cache", "compute"))),
            failure=failure,
            failure_at=int(at or 0),
            embeds_only=values.get("embeds") == "only",
        )
    except ValueError as error:
        raise EngineError(f"The echo script has a bad number: {error}.") from error


def build() -> str:
    return "echo 1"


def dry_run(path: str, options: EngineOptions) -> dict[str, Footprint]:
    """What `load` would claim."""
    return {"host": script(path).footprint}


def load(path: str, options: EngineOptions, progress: Callable[[float], None]) -> EchoBackend:
    """As `router.engine.llama.load`. Raises EngineError when the script says so."""
    told = script(path)
    match told.failure:
        case "load":
            raise EngineError("The echo was told to fail its load.")
        case "oom_load":
            raise OutOfMemory("The echo was told to lack memory for its load.")
        case "exit_load":
            os._exit(3)
        case "hang_load":
            _hang()
    for turn in range(1, _LOAD_PROGRESS_STEPS + 1):
        time.sleep(told.load / _LOAD_PROGRESS_STEPS)
        progress(turn / _LOAD_PROGRESS_STEPS)
    return EchoBackend(told, options)


@dataclass(slots=True)
class EchoSampler:
    """Says the prompt, byte by byte, then END; over and over when the end is to be ignored."""

    prompt: Tokens
    forever: bool
    said: list[int] = field(default_factory=list)
    closed: bool = False

    def next(self) -> int:
        at = len(self.said) % len(self.prompt) if self.forever else len(self.said)
        token = int(self.prompt[at]) if at < len(self.prompt) else END
        self.said.append(token)
        return token

    def close(self) -> None:
        self.closed = True


class EchoBackend:
    """Implements `router.engine.engine.Backend`."""

    chat_template: str | None = _TEMPLATE
    bos = ""
    eos = ""
    adds_bos = False

    def __init__(self, told: Script, options: EngineOptions) -> None:
        self._script = told
        self.width = max(options.ubatch, options.slots)
        self.embedding_width = options.ubatch
        self.resident = {"host": told.footprint}
        self.mapped = 0
        self.facts = EngineFacts(
            options.context, options.slots, END + 1, DIMENSIONS, True, can_generate=not told.embeds_only
        )
        self.cells: list[list[int]] = [[] for _ in range(options.slots)]
        """What each slot's cache holds; tests look at it."""
        self.batches: list[list[Work]] = []
        """Every batch that was decoded."""
        self.closed = False

    def tokenize(self, text: str, special: bool) -> list[int]:
        if self._script.failure == "hang_read" and len(text) > self._script.failure_at:
            _hang()
        return list(text.encode("utf-8", "replace"))

    def specials(self) -> tuple[str, ...]:
        return ()

    def longest(self) -> int | None:
        return 1

    def piece(self, token: int) -> bytes:
        return b"" if token == END else bytes((token,))

    def is_end(self, token: int) -> bool:
        return token == END

    def sampler(self, params: SamplingParams, seed: int, prompt: Tokens) -> Sampler:
        return EchoSampler(prompt, params.ignore_eos)

    def keep(self, slot: int, length: int) -> int:
        if length > len(self.cells[slot]):
            raise EngineError(f"Slot {slot} holds {len(self.cells[slot])} tokens, not {length}.")
        del self.cells[slot][length:]
        return length

    def decode(self, batch: list[Work]) -> list[int | None]:
        self._misbehave(batch)
        if sum(len(work.tokens) for work in batch) > self.width:
            raise EngineError(f"A batch of more than {self.width} tokens.")
        self.batches.append(batch)
        return [self._decode(work) for work in batch]

    def embed(self, work: Work) -> Matrix:
        """A token's vector counts its bits, so that texts with the same letters are near each other."""
        self._misbehave([work])
        self._write(work)
        bits = np.unpackbits(work.tokens.astype(np.uint8)[:, None], axis=1)
        return bits.astype(np.float32) + np.float32(0.01)

    def close(self) -> None:
        self.closed = True

    def _decode(self, work: Work) -> int | None:
        self._write(work)
        sampler = work.sampler
        if sampler is None:
            return None
        assert isinstance(sampler, EchoSampler) and not sampler.closed
        expected = sampler.prompt.tolist() + sampler.said
        if self.cells[work.slot] != expected:
            raise EngineError(f"Slot {work.slot} holds another text than its sequence.")
        return sampler.next()

    def _write(self, work: Work) -> None:
        cells = self.cells[work.slot]
        if work.start != len(cells) or not len(work.tokens):
            raise EngineError(f"Slot {work.slot} goes on at {len(cells)}, not at {work.start}.")
        if len(cells) + len(work.tokens) > self.facts.context:
            raise EngineError(f"Slot {work.slot} is full.")
        cells += work.tokens.tolist()

    def _misbehave(self, batch: list[Work]) -> None:
        time.sleep(self._script.step)
        now = len(self.batches) + 1 >= self._script.failure_at
        match self._script.failure:
            case "refuse" if any(work.slot == self._script.failure_at for work in batch):
                raise DecodeFailed("The echo refused a batch.")
            case "raise_decode" if now:
                raise EngineError("The echo was told to fail this decode.")
            case "oom_decode" if now:
                raise OutOfMemory("The echo was told to run out of memory.")
            case "exit_decode" if now:
                os._exit(4)
            case "abort_decode" if now:
                os.abort()
            case "hang_decode" if now:
                _hang()
            case "garbage":
                _write_garbage()


def _hang() -> None:
    while True:
        time.sleep(3600)


def _write_garbage() -> None:
    for number in range(3, 256):
        try:
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                os.write(number, b"\xff" * 64)
        except OSError:
            continue
