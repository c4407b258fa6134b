"""
The engine says what llama.cpp itself says, token for token.

Where two ways to compute the same text differ, they differ in the last bits of the logits: flash attention sums in
another order, and a prompt read in one batch is multiplied by other kernels than one read token by token. The two
best tokens are sometimes nearer than that (0.001 in SmolLM2), and the texts then part. That is no fault of either,
so the reference here is computed alike: same flash attention, the prompt in one batch, one sequence.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from router.domain.generation import GenerationRequest, SamplingParams, TokenPrompt
from router.engine.llama_log import llama
from router.engine.llama_params import threads
from tests.models.engine_scene import open_engine

pytestmark = pytest.mark.model

TOKENS = 48
FLASH = {"on": llama.LLAMA_FLASH_ATTN_TYPE_ENABLED, "off": llama.LLAMA_FLASH_ATTN_TYPE_DISABLED}


@pytest.mark.parametrize("flash", FLASH)
@pytest.mark.parametrize("kind", ["q4_1", "q8_0", "f16"])
def test_greedy_tokens_are_llama_cpps_own(demo_models: dict[str, Path], kind: str, flash: str):
    engine = open_engine(demo_models[kind], flash_attention=flash)
    prompt = tuple(engine._backend.tokenize("Once upon a time there was a little", special=True))
    sampling = SamplingParams(temperature=0.0, max_tokens=TOKENS + 1, ignore_eos=True)
    sequence = engine.prepare(GenerationRequest("one", TokenPrompt(prompt), sampling))
    engine.add(sequence)
    while engine.busy:
        engine.step()
    assert sequence.slot is not None
    said = sequence.slot.tokens.tolist()[len(prompt) :]  # all but the last, which nothing follows
    engine.close()
    assert said == reference(demo_models[kind], prompt, flash)


def reference(path: Path, prompt: tuple[int, ...], flash: str) -> list[int]:
    """A loop of a few lines over llama.cpp that knows nothing of slots, samplers and batches of many."""
    model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
    params = llama.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = threads()
    params.flash_attn_type = FLASH[flash]
    context = llama.llama_init_from_model(model, params)
    vocabulary = llama.llama_model_get_vocab(model)
    size = llama.llama_vocab_n_tokens(vocabulary)
    ends = [token for token in range(size) if llama.llama_vocab_is_eog(vocabulary, token)]
    said: list[int] = []
    current = list(prompt)
    while len(said) < TOKENS:
        held = (llama.llama_token * len(current))(*current)  # the batch only points to it
        assert llama.llama_decode(context, llama.llama_batch_get_one(held, len(current))) == 0
        logits = np.ctypeslib.as_array(llama.llama_get_logits_ith(context, -1), (size,)).copy()
        logits[ends] = -np.inf
        current = [int(logits.argmax())]
        said += current
    llama.llama_free(context)
    llama.llama_model_free(model)
    return said
