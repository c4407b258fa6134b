from __future__ import annotations

import os
import subprocess
import sys

import pytest

from router.engine import llama_log

INFO, WARN, ERROR, CONTINUED = 2, 3, 4, 5


@pytest.fixture(autouse=True)
def _no_complaints():
    llama_log.forget_complaints()
    yield
    llama_log.forget_complaints()


def test_warnings_and_errors_go_to_stderr_line_by_line(capsys: pytest.CaptureFixture[str]):
    lines = llama_log._Lines()
    lines.take(INFO, b"chatter\n")
    lines.take(WARN, b"a warn")
    lines.take(CONTINUED, b"ing\nand")
    lines.take(CONTINUED, b" more\n")
    lines.take(INFO, b"chatter\n")
    lines.take(CONTINUED, b"of chatter\n")
    assert capsys.readouterr().err == "llama.cpp: a warning\nllama.cpp: and more\n"


def test_progress_is_told_to_who_wants_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(llama_log, "_lines", llama_log._Lines())
    llama_log.talk()
    llama_log._lines.take(INFO, b"[1/2] blk.0\n")
    assert capsys.readouterr().err == "llama.cpp: [1/2] blk.0\n"


def test_the_first_error_explains_the_rest():
    lines = llama_log._Lines()
    lines.take(WARN, b"load: a warning\n")
    lines.take(ERROR, b"llama_model_load: error loading model: out of luck\n")
    lines.take(ERROR, b"load_from_file: failed to load model\n")
    assert llama_log.complaint() == ": out of luck"


@pytest.mark.parametrize(
    ("said", "lacked"),
    [
        (
            b"alloc_buffer: allocating 9 MiB on device 0: cudaMalloc failed: out of memory",
            True,
        ),
        (b"ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 99", True),
        (
            b"llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache",
            True,
        ),
        (b"llama_model_load: error loading model: mmap failed: Cannot allocate memory", True),
        (b"llama_model_load: error loading model: invalid magic characters", False),
        (b"llama_model_load: error loading model: unknown model architecture: 'memory'", False),
    ],
)
def test_a_lack_of_memory_is_known_by_its_words(said: bytes, lacked: bool):
    assert not llama_log.ran_out()
    lines = llama_log._Lines()
    lines.take(ERROR, said + b"\n")
    lines.take(ERROR, b"llama_model_load_from_file_impl: failed to load model\n")
    assert llama_log.ran_out() is lacked


@pytest.mark.parametrize(
    ("said", "passes"),
    [
        (
            b"llama_init_from_model: failed to initialize the context: failed to initialize CUDA0 backend",
            True,
        ),
        (b"ggml_cuda_init: CUDA error: device busy", True),
        (b"llama_model_load: error loading model: failed to open /m.gguf: Too many open files", True),
        (b"llama_model_load: error loading model: read error: Input/output error", True),
        (b"alloc_buffer: cudaMalloc failed: out of memory", True),
        (b"llama_model_load: error loading model: unknown model architecture: 'x'", False),
        (b"llama_model_load: error loading model: check_tensor_dims: tensor 'a' not found", False),
        (b"llama_init_from_model: failed to initialize the context: no such type", False),
    ],
)
def test_a_cause_that_lies_in_the_machine_is_told_from_one_in_the_file(said: bytes, passes: bool):
    assert llama_log.may_pass()  # nothing was said: nobody knows
    lines = llama_log._Lines()
    lines.take(ERROR, said + b"\n")
    assert llama_log.may_pass() is passes


def test_without_an_error_there_is_nothing_to_say():
    assert llama_log.complaint() == "."


def test_errors_without_end_do_not_fill_memory():
    lines = llama_log._Lines()
    for _ in range(1000):
        lines.take(ERROR, b"again\n")
    assert len(llama_log._errors) < 100


def test_bytes_that_are_no_text_are_no_error(capsys: pytest.CaptureFixture[str]):
    llama_log._Lines().take(ERROR, b"\xff\n")
    assert capsys.readouterr().err == "llama.cpp: \ufffd\n"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, "None 200 1"),
        ({"OMP_WAIT_POLICY": "active"}, "active None 1"),
        ({"GOMP_SPINCOUNT": "7"}, "None 7 1"),
    ],
)
def test_the_environment_is_set_before_the_library_reads_it_and_yields_to_the_operator(
    more: dict[str, str], expected: str
):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "GGML_NO_BACKTRACE")
    script = f"import os, router.engine.llama_log; print(*(os.environ.get(name) for name in {names}))"
    clean = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run([sys.executable, "-c", script], env=clean | more, capture_output=True, text=True)
    assert done.stdout.split("\n")[0] == expected, done.stderr
