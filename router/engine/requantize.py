"""
`python -m router.engine.requantize SRC DST TYPE`: derive a GGUF of another size from one that is there.

The one rule: DST appears whole or not at all. A requantised file keeps the losses of its source; it is for
trying things out, not for quality.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from router.engine.batch import EngineError
from router.engine.llama_log import complaint, forget_complaints, llama, talk
from router.engine.llama_params import threads

TYPES = {
    "f16": llama.LLAMA_FTYPE_MOSTLY_F16,
    "q4_0": llama.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q4_1": llama.LLAMA_FTYPE_MOSTLY_Q4_1,
    "q4_k_m": llama.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "q5_k_m": llama.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "q6_k": llama.LLAMA_FTYPE_MOSTLY_Q6_K,
    "q8_0": llama.LLAMA_FTYPE_MOSTLY_Q8_0,
}


def requantize(source: Path, target: Path, kind: str) -> None:
    """Blocks. Raises EngineError."""
    if kind not in TYPES:
        raise EngineError(f"{kind} is no type to requantise to; there are {', '.join(TYPES)}.")
    if not source.is_file():
        raise EngineError(f"{source} is not a file.")
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = TYPES[kind], True, threads()
    forget_complaints()
    with _whole(target) as unfinished:
        reference = llama.ctypes.byref(params)
        if llama.llama_model_quantize(bytes(source), bytes(unfinished), reference):
            raise EngineError(f"llama.cpp could not requantise {source}{complaint()}")


@contextlib.contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A path beside `target` that becomes `target` if all goes well, and vanishes if not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        yield unfinished
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status: 0, 1 for a failure, 2 for wrong arguments. A line a tensor goes to stderr."""
    if len(arguments) != 3:
        sys.stderr.write(f"usage: python -m router.engine.requantize SRC DST {'|'.join(TYPES)}\n")
        return 2
    source, target, kind = arguments
    talk()
    try:
        requantize(Path(source), Path(target), kind)
    except EngineError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    size = Path(target).stat().st_size
    sys.stderr.write(f"{target}: {size / 2**20:.0f} MiB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
