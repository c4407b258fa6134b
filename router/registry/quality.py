"""
Is a file exact enough for what it is meant to do? Quantisations in order, and what each use asks for.

The one rule: what is not known is not judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from router.domain.models import LocalModel
from router.domain.routes import Quality

# By what llama.cpp's own table of perplexities says of Llama 3 8B, worst first; the IQ kinds stand by their bits.
_ORDER = (
    *(
        "IQ1_S",
        "IQ1_M",
        "Q1_0",
        "TQ1_0",
        "TQ2_0",
        "IQ2_XXS",
        "IQ2_XS",
        "Q2_0",
        "Q2_K_S",
        "IQ2_S",
        "IQ2_M",
        "Q2_K",
    ),
    *("IQ3_XXS", "IQ3_XS", "Q3_K_S", "IQ3_S", "IQ3_M", "Q3_K_M", "Q3_K_L"),
    *("Q4_0", "Q4_1", "IQ4_XS", "IQ4_NL", "Q4_K_S", "Q4_K_M"),
    *("Q5_0", "Q5_1", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0", "F16", "BF16", "F32"),
)
_RANK = {name: rank for rank, name in enumerate(_ORDER)}
_LEAST: dict[Quality, str] = {"code": "Q4_K_M", "agentic": "Q4_K_M"}


def under(quantization: str, least: str) -> bool:
    """True when a file of this quantisation is known to be less exact than `least`."""
    return quantization in _RANK and least in _RANK and _RANK[quantization] < _RANK[least]


def warning(quantization: str, quality: Quality | None) -> str | None:
    """What to tell an operator who marks such a file for such work."""
    least = _LEAST.get(quality) if quality else None
    if least is None or not under(quantization, least):
        return None
    return (
        f"a {quantization} file loses the exactness that {quality} work needs (tool calls, long plans, code): "
        f"use {least} or better, or write quality: chat"
    )


def demanded(candidates: Iterable[LocalModel], least: str | None) -> Iterator[tuple[LocalModel, str]]:
    """The candidates that are not good enough for a route that demands `least`, and why."""
    for model in candidates:
        if least is not None and under(model.card.quantization, least):
            yield (
                model,
                f"{model.name!r} is a {model.card.quantization} file, and the route demands {least} or better",
            )


def warnings(candidates: Iterable[LocalModel], quality: Quality | None) -> Iterator[str]:
    """About the candidates of a route for such work."""
    for model in candidates:
        if reason := warning(model.card.quantization, quality):
            yield f"{model.name!r}: {reason}"
