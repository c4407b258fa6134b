"""
llama.cpp as a Backend: load, decode, embed. With its `llama_*` siblings the one door of llama_cpp.

The one rule: all is checked before it goes down; below this, a wrong number is an abort, not an exception.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from router.domain.generation import SamplingParams
from router.domain.models import EngineOptions, Footprint
from router.engine import sampling
from router.engine.batch import (
    DecodeFailed,
    EngineError,
    EngineFacts,
    Matrix,
    ModelRefused,
    OutOfMemory,
    Sampler,
    Tokens,
    Work,
)
from router.engine.llama_batch import Batch
from router.engine.llama_log import complaint, forget_complaints, llama, may_pass, ran_out
from router.engine.llama_memory import breakdown, copies_mapped, footprints, mapped, touched
from router.engine.llama_params import Traits, context_params, model_params, traits
from router.engine.llama_sampling import LlamaSampler
from router.engine.llama_staging import staged
from router.engine.llama_vocabulary import LlamaVocabulary
from router.engine.private import let_go, private_bytes

_INVALID_BATCH, _NO_ROOM = -1, 1


def build() -> str:
    """Names this build of llama.cpp: what was measured with it holds for it only."""
    version = llama.llama_version().decode("utf-8", "replace")
    return f"llama-cpp-python {llama.__version__} llama.cpp {version}{' gpu' if gpu_offload() else ''}"


def gpu_offload() -> bool:
    """Whether this build can use a GPU."""
    return bool(llama.llama_supports_gpu_offload())


def load(path: str, options: EngineOptions, progress: Callable[[float], None]) -> LlamaBackend:
    """Blocks until the model is in memory. `progress` gets fractions from 0 to 1. Raises EngineError."""
    params = model_params(options)

    with staged(progress) as said:

        @llama.llama_progress_callback  # type: ignore[untyped-decorator]
        def report(fraction: float, _user_data: object) -> bool:
            said(fraction)
            return True

        params.progress_callback = report
        model = _load_model(path, params)
    try:
        kind = traits(model)
        context = _new_context(model, options, kind)
        outputs = kind.output_bytes(options, llama.llama_model_n_embd_out(model))
        held = _held(path, context, outputs, kind.sampling_bytes(options))
        return LlamaBackend(model, context, options, kind, held)
    except BaseException:
        llama.llama_model_free(model)
        raise


def dry_run(path: str, options: EngineOptions) -> dict[str, Footprint]:
    """
    What a load would hold, by device name; about 0.1 s. Raises EngineError.

    Buffers by llama.cpp's own planning; the host's overhead is what this process holds by itself while model
    and context stand without weights: interpreter, vocabulary, graphs. Not counted: files that are mapped.
    """
    params = model_params(options)
    params.no_alloc = True
    params.load_mode = llama.LLAMA_LOAD_MODE_NONE
    model = _load_model(path, params)
    try:
        kind = traits(model)
        context = _new_context(model, options, kind)
        try:
            outputs = kind.output_bytes(options, llama.llama_model_n_embd_out(model))
            overhead = max(private_bytes() - outputs, 0)
            return footprints(breakdown(context), outputs + kind.sampling_bytes(options), overhead)
        finally:
            llama.llama_free(context)
    finally:
        llama.llama_model_free(model)


def _held(path: str, context: Any, outputs: int, samplers: int) -> tuple[dict[str, Footprint], int]:
    """
    What a load holds, counted as `dry_run` counts: the process's own memory is what its buffers do not take.

    And the bytes of the weights that are mapped. `samplers` are still to come.
    """
    buffers = breakdown(context)
    if copies_mapped(buffers):
        let_go(Path(path))
    overhead = max(private_bytes() - touched(buffers) - outputs, 0)
    return footprints(buffers, outputs + samplers, overhead), mapped(buffers)


def _load_model(path: str, params: Any) -> Any:
    _look_at(path)
    forget_complaints()
    model = llama.llama_model_load_from_file(path.encode(), params)
    if not model:
        raise _refusal(f"llama.cpp could not load {path}{complaint()}")
    return model


def _look_at(path: str) -> None:
    """A file that cannot be read is not one that llama.cpp refuses."""
    if not Path(path).is_file():
        raise EngineError(f"{path} is not a file.")
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error.strerror}.") from error


def _new_context(model: Any, options: EngineOptions, kind: Traits) -> Any:
    forget_complaints()
    context = llama.llama_init_from_model(model, context_params(options, kind))
    if not context:
        raise _refusal(f"llama.cpp could not make a context of {options.context} tokens{complaint()}")
    return context


def _refusal(message: str) -> EngineError:
    """The error of a load or dry run that failed: a refusal, unless another try may end otherwise."""
    return _failure(message) if may_pass() else ModelRefused(message)


def _failure(message: str) -> EngineError:
    return OutOfMemory(message) if ran_out() else EngineError(message)


class LlamaBackend(LlamaVocabulary):
    """Implements `router.engine.engine.Backend`. Owns model and context; `close` frees them."""

    def __init__(
        self,
        model: Any,
        context: Any,
        options: EngineOptions,
        kind: Traits,
        held: tuple[dict[str, Footprint], int],
    ) -> None:
        super().__init__(model)
        self._model = model
        self._context = context
        self._memory = llama.llama_get_memory(context)
        self._window: int = llama.llama_model_n_swa(model)
        self._generates = self._memory is not None and not kind.whole
        self._pools = llama.llama_pooling_type(context) != llama.LLAMA_POOLING_TYPE_NONE
        self._dimensions: int = llama.llama_model_n_embd_out(model)
        self.width: int = llama.llama_n_batch(context)
        self.embedding_width = min(self.width, kind.embedding_width(options))
        self._batch = Batch(self.width)
        self.resident, self.mapped = held
        # A model with learnt positions has none beyond those it was trained with, and would abort.
        positions = llama.llama_model_n_ctx_train(model) if kind.whole else options.context
        self.facts = EngineFacts(
            context=min(options.context, positions, llama.llama_n_ctx_seq(context)),
            slots=options.slots,
            vocabulary=self.size,
            embedding_dimensions=self._dimensions,
            has_chat_template=self.chat_template is not None,
            can_generate=self._generates,
        )

    def sampler(self, params: SamplingParams, seed: int, prompt: Tokens) -> Sampler:
        ends = sorted(self.end_tokens) if params.ignore_eos else ()
        return LlamaSampler(sampling.chain(params, seed, self.facts.context, ends), self.size, prompt)

    def keep(self, slot: int, length: int) -> int:
        if self._memory is None:
            return 0
        if length and llama.llama_memory_seq_rm(self._memory, slot, length, -1) and self._holds(slot, length):
            return length
        llama.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return 0

    def _holds(self, slot: int, length: int) -> bool:
        """A sliding window or a recurrent state may have lost the cells that the next token looks back at."""
        first = llama.llama_memory_seq_pos_min(self._memory, slot)
        last = llama.llama_memory_seq_pos_max(self._memory, slot)
        needed = max(0, length - self._window) if self._window else 0
        return bool(last == length - 1 and 0 <= first <= needed)

    def decode(self, batch: list[Work]) -> list[int | None]:
        outputs = self._batch.fill(batch)
        self._run()
        return [
            None
            if output is None
            else llama.llama_sampler_sample(work.sampler.pointer, self._context, output)  # type: ignore[union-attr]
            for work, output in zip(batch, outputs, strict=True)
        ]

    def embed(self, work: Work) -> Matrix:
        self._batch.fill([work], output_all=True)
        if not self._generates:
            self._run()
            return self._rows(work)
        # Only for this step: with it on, llama.cpp computes the logits of every token of every batch.
        llama.llama_set_embeddings(self._context, True)
        try:
            self._run()
            return self._rows(work)
        finally:
            llama.llama_set_embeddings(self._context, False)

    def _rows(self, work: Work) -> Matrix:
        if self._pools:
            pointer, rows = llama.llama_get_embeddings_seq(self._context, work.slot), 1
        else:
            pointer, rows = llama.llama_get_embeddings(self._context), len(work.tokens)
        if not pointer:
            raise EngineError("llama.cpp has no embeddings for a batch that it decoded.")
        return np.ctypeslib.as_array(pointer, (rows, self._dimensions)).copy()

    def _run(self) -> None:
        forget_complaints()
        code = llama.llama_decode(self._context, self._batch.struct)
        if code in (_NO_ROOM, _INVALID_BATCH):
            # The cache is as it was before this call.
            raise DecodeFailed(f"llama.cpp refused a batch (code {code}){complaint()}")
        if code:
            raise _failure(f"llama.cpp failed to decode (code {code}){complaint()}")

    def close(self) -> None:
        context, self._context = self._context, None
        model, self._model = self._model, None
        if context is not None:
            llama.llama_free(context)
            llama.llama_model_free(model)
