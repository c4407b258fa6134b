from __future__ import annotations

import importlib.util
import pwd
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def install() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", ROOT / "deploy" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Venv:
    """An environment on paper: what is installed in it, and what pip was asked for."""

    def __init__(self, install: ModuleType, path: Path, found: list[tuple[int, str]], cuda: bool) -> None:
        self.asked: list[tuple[str, ...]] = []
        outer = self

        class Paper(install.Installation):  # type: ignore[name-defined,misc]
            def _has(self, requirement: str) -> bool:
                return False

            def _pip(self, *arguments: str) -> None:
                outer.asked.append(arguments)

            def _probe(self) -> subprocess.CompletedProcess[str]:
                code, said = found.pop(0) if len(found) > 1 else found[0]
                return subprocess.CompletedProcess([], code, said, "ImportError: libcuda.so.1")

        self.installation: Any = Paper(path, dev=False)
        self.installation.cuda = cuda

    def install_engine(self) -> list[tuple[str, ...]]:
        self.installation._install_engine()
        return self.asked


GPU, CPU, BROKEN = (0, "gpu\n"), (0, "cpu\n"), (1, "")


def test_a_wheel_that_suits_is_taken_as_it_is(install: ModuleType, tmp_path: Path) -> None:
    assert len(Venv(install, tmp_path, [CPU], cuda=False).install_engine()) == 1


def test_a_cuda_build_has_a_pip_cache_of_its_own(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUTER_CACHE", str(tmp_path))
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    ((requirement, flag, cache),) = Venv(install, tmp_path, [GPU], cuda=True).install_engine()
    assert requirement.startswith("llama-cpp-python==")
    assert flag == "--cache-dir"
    assert Path(cache).is_relative_to(tmp_path)


def test_without_a_home_the_installation_says_what_to_set(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    with pytest.raises(install.InstallError, match=r"HOME is not set.*set ROUTER_CACHE"):
        install.cache_of_its_own({"CMAKE_ARGS": "-DGGML_CUDA=on"})


def test_a_cpu_wheel_from_a_cache_is_built_again_where_there_is_a_gpu(
    install: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = Venv(install, tmp_path, [CPU, GPU], cuda=True).install_engine()
    assert [a[0] for a in asked][1:] == ["--force-reinstall"]
    assert "cannot use the GPU" in capsys.readouterr().out


def test_a_wheel_that_does_not_load_is_built_again_without_the_cache(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    asked = Venv(install, tmp_path, [BROKEN, CPU], cuda=False).install_engine()
    assert "--no-cache-dir" in asked[1]


def test_an_engine_that_never_loads_is_an_error_with_its_reason(install: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(install.InstallError, match=r"libcuda\.so\.1"):
        Venv(install, tmp_path, [BROKEN], cuda=False).install_engine()


def test_a_gpu_that_stays_unseen_is_a_warning_and_not_a_loop(
    install: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(Venv(install, tmp_path, [CPU], cuda=True).install_engine()) == 2
    assert "warning" in capsys.readouterr().out


def test_the_engine_is_the_one_that_pyproject_pins(install: ModuleType) -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert install.engine_requirement() in dependencies


@pytest.mark.parametrize(("asked", "wanted"), [("on", True), ("OFF", False)])
def test_a_person_overrules_what_is_found_out_about_the_gpu(
    install: ModuleType, asked: str, wanted: bool
) -> None:
    assert install.wants_cuda({"ROUTER_CUDA": asked}, device=Path("/")) is wanted


def test_a_gpu_without_a_cuda_compiler_means_a_cpu_build(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "find_nvcc", lambda: None)
    assert install.wants_cuda({}, device=Path("/")) is False


def test_a_cuda_compiler_and_a_gpu_mean_a_cuda_build(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "find_nvcc", lambda: "nvcc")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install.wants_cuda({}, device=tmp_path) is True
    assert install.wants_cuda({}, device=tmp_path / "none") is False


def test_own_cmake_arguments_are_kept(install: ModuleType) -> None:
    assert install.build_environment({"CMAKE_ARGS": "-DX=1"}, True)["CMAKE_ARGS"] == "-DX=1 -DGGML_CUDA=on"
    assert (
        install.build_environment({"CMAKE_ARGS": "-DGGML_CUDA=off"}, True)["CMAKE_ARGS"] == "-DGGML_CUDA=off"
    )
    assert "CMAKE_ARGS" not in install.build_environment({}, False)


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("[3/210] Building CXX\n[46/210] Building C object x.c.o\n", "compiling llama.cpp: 46 of 210 files"),
        ("[ 12%] Building CXX object a\n[ 13%] Building\n", "compiling llama.cpp: 13%"),
        ("Collecting numpy\n  Downloading numpy-2.whl (16 MB)\n", "Downloading numpy-2.whl (16 MB)"),
        ("", "pip is at work"),
    ],
)
def test_the_sign_of_life_says_how_far_it_is(
    install: ModuleType, tmp_path: Path, log: str, said: str
) -> None:
    (tmp_path / "log").write_text(log)
    assert install.activity(tmp_path / "log") == said


def test_something_long_gives_signs_of_life_and_its_status(
    install: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "import sys, time; print('Collecting x', flush=True); time.sleep(0.5); sys.exit(7)"
    status = install.run_with_beat([sys.executable, "-c", code], {}, tmp_path / "log", beat=0.1)
    assert status == 7
    assert "0 s  " in capsys.readouterr().out


def test_a_failure_shows_the_end_of_the_log_and_what_is_missing(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log").write_text("a\n" * 100 + "CMake Error: no CMAKE_CXX_COMPILER\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    report = install.explain(tmp_path / "log")
    assert "CMake Error" in report
    assert "a C compiler and a C++ compiler and make or ninja" in report
    assert "build-essential" in report


def test_the_stamp_follows_the_project_and_the_gpu(install: ModuleType) -> None:
    assert install.fingerprint(True) != install.fingerprint(False)


def find_python(**environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "deploy" / "find-python")]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def script(folder: Path, name: str, line: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{line}\n")
    (folder / name).chmod(0o755)


def test_the_python_that_a_person_names_is_taken(tmp_path: Path) -> None:
    assert find_python(PATH="/usr/bin:/bin", PYTHON=sys.executable).stdout.strip() == sys.executable


def test_a_shim_that_only_fails_is_passed_over(tmp_path: Path) -> None:
    script(tmp_path, "python3", "echo no such version >&2; exit 127")
    script(tmp_path, "python3.12", f'exec {sys.executable} "$@"')
    assert find_python(PATH=f"{tmp_path}:/nowhere").stdout.strip() == "python3.12"


def test_without_a_new_enough_python_the_error_says_what_to_do(tmp_path: Path) -> None:
    script(tmp_path, "python3", "exit 1")
    done = find_python(PATH=str(tmp_path))
    assert done.returncode == 1
    assert "no Python 3.11 or newer" in done.stderr
    assert "PYTHON=" in done.stderr


def test_a_python_without_ensurepip_is_named_with_the_package_that_has_it(tmp_path: Path) -> None:
    script(tmp_path, "python3", 'case "$*" in *ensurepip*) exit 1;; esac')
    done = find_python(PATH=str(tmp_path))
    assert done.returncode == 1
    assert "apt install python3-venv" in done.stderr
