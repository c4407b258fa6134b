"""
Make .venv, build llama.cpp for this machine, install the project: what `make` runs before anything else.

The one rule: the standard library only, since nothing is installed yet. Needs no root, and knows no
package source: that is pip's business.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENGINE = "llama-cpp-python"
BEAT = 12.0
"""Seconds between two signs of life while something long runs."""

_PROBE = "import llama_cpp; print('gpu' if llama_cpp.llama_supports_gpu_offload() else 'cpu')"
_COMPILED = re.compile(rb"\[\s*(\d+)/(\d+)\]|\[\s*(\d+)%\]")

_PIP_STEP = re.compile(r"^\s*((?:Collecting|Downloading|Building|Installing) .*\S)", re.MULTILINE)

_TOOLS = {
    "a C compiler": "cc gcc clang",
    "a C++ compiler": "c++ g++ clang++",
    "make or ninja": "make gmake ninja",
}


class InstallError(Exception):
    """The message is for the person at the terminal: what failed and what to do."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Install the project into a virtual environment.")
    parser.add_argument("venv", type=Path)
    parser.add_argument("--dev", action="store_true", help="also what the tests need")
    chosen = parser.parse_args(arguments)
    try:
        with _alone():
            Installation(chosen.venv.absolute(), chosen.dev).bring_up_to_date()
    except InstallError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Two `make` at once must not fill one environment: the second waits for the first."""
    with (ROOT / "pyproject.toml").open("rb") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another make is installing; waiting for it")
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


class Installation:
    """One virtual environment and what it should hold."""

    def __init__(self, venv: Path, dev: bool) -> None:
        self.venv = venv
        self.python = venv / "bin" / "python"
        self.log = venv / "install.log"
        # The dev set holds the other one, so an environment that has it needs nothing for `make serve`.
        self.dev = dev or (venv / "installed-dev").exists()
        self.cuda = wants_cuda(os.environ)

    @property
    def stamp(self) -> Path:
        return self.venv / ("installed-dev" if self.dev else "installed")

    def bring_up_to_date(self) -> None:
        wanted = fingerprint(self.cuda)
        if self.stamp.exists() and self.stamp.read_text() == wanted and self._runs():
            return
        started = time.monotonic()
        self._make_venv()
        for old in self.venv.glob("installed*"):
            old.unlink()
        self._install_engine()
        self._install_project()
        self.stamp.write_text(wanted)
        say(f"installed in {elapsed(started)}")

    def _runs(self) -> bool:
        """A venv whose base Python was upgraded or removed has all its files and does not start."""
        if not self.python.exists():
            return False
        return subprocess.run([self.python, "-P", "-c", ""], capture_output=True).returncode == 0

    def _make_venv(self) -> None:
        if self._runs() and self._pip_works():
            return
        say(f"making {self.venv.name} with Python {sys.version.split()[0]}")
        made = subprocess.run(
            [sys.executable, "-P", "-m", "venv", "--clear", self.venv], capture_output=True, text=True
        )
        if made.returncode:
            raise InstallError(
                f"{sys.executable} cannot make a virtual environment:\n{made.stdout}{made.stderr}\n"
                "On Debian and Ubuntu: apt install python3-venv"
            )

    def _pip_works(self) -> bool:
        return (
            subprocess.run([self.python, "-P", "-m", "pip", "--version"], capture_output=True).returncode == 0
        )

    def _install_engine(self) -> None:
        """pip's cache does not know CMAKE_ARGS: what it hands out may be built for another machine."""
        requirement = engine_requirement()
        if not self._has(requirement):
            kind = "CUDA" if self.cuda else "CPU"
            say(f"installing {requirement} ({kind}): minutes when it is compiled, seconds from pip's cache")
            self._pip(requirement, *self._own_cache())
        if reason := self._unfit():
            say(f"{reason}; building it for this machine")
            again = ("--force-reinstall", "--no-deps", requirement)
            self._pip(*again, *(self._own_cache() or ("--no-cache-dir",)))
        if reason := self._unfit():
            if self._probe().returncode:
                raise InstallError(f"{requirement} was built and does not load:\n{self._probe().stderr}")
            say(f"warning: {reason}, though built here (is the driver older than the toolkit?)")

    def _has(self, requirement: str) -> bool:
        name, _, version = requirement.partition("==")
        code = f"import importlib.metadata as m; print(m.version({name!r}))"
        found = subprocess.run([self.python, "-P", "-c", code], capture_output=True, text=True)
        return found.returncode == 0 and found.stdout.strip() == version

    def _unfit(self) -> str | None:
        """Why the engine that is installed does not suit this machine; None when it does."""
        probe = self._probe()
        if probe.returncode:
            return f"the {ENGINE} that is installed does not load here"
        if self.cuda and probe.stdout.split()[-1] != "gpu":
            return f"the {ENGINE} that is installed cannot use the GPU"
        return None

    def _probe(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.python, "-P", "-c", _PROBE], capture_output=True, text=True)

    def _own_cache(self) -> tuple[str, ...]:
        return cache_of_its_own(build_environment(os.environ, self.cuda))

    def _install_project(self) -> None:
        say("installing the project" + (" and its test tools" if self.dev else ""))
        self._pip("-e", f"{ROOT}[dev]" if self.dev else str(ROOT))

    def _pip(self, *arguments: str) -> None:
        command = [str(self.python), "-P", "-m", "pip", "install", "-v", *arguments]
        if run_with_beat(command, build_environment(os.environ, self.cuda), self.log):
            raise InstallError(f"{' '.join(command)}\n{explain(self.log)}")


def engine_requirement() -> str:
    """The pinned llama-cpp-python of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return next(str(line) for line in project["dependencies"] if line.startswith(f"{ENGINE}=="))


def fingerprint(cuda: bool) -> str:
    """Changes when what should be installed does: the project's description, its place, the GPU."""
    parts = [(ROOT / "pyproject.toml").read_bytes(), str(ROOT).encode(), str(cuda).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def find_nvcc() -> str | None:
    """The CUDA compiler: on PATH, or where NVIDIA's installers put it."""
    usual = Path("/usr/local/cuda/bin/nvcc")
    return shutil.which("nvcc") or (str(usual) if usual.exists() else None)


def wants_cuda(env: Mapping[str, str], device: Path = Path("/dev/nvidia0")) -> bool:
    """A compiler for the GPU and a GPU. ROUTER_CUDA=on or off overrules."""
    if (asked := env.get("ROUTER_CUDA", "").lower()) in {"on", "off"}:
        return asked == "on"
    if find_nvcc() is None:
        return False
    if device.exists():
        return True
    smi = shutil.which("nvidia-smi")
    return smi is not None and subprocess.run([smi, "-L"], capture_output=True).returncode == 0


def build_environment(env: Mapping[str, str], cuda: bool) -> dict[str, str]:
    """What the build of llama.cpp reads. A person's own CMAKE_ARGS are kept."""
    own = env.get("CMAKE_ARGS", "")
    built = {**env, "CMAKE_BUILD_PARALLEL_LEVEL": env.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(jobs())}
    if cuda and "GGML_CUDA" not in own:
        built["CMAKE_ARGS"] = f"{own} -DGGML_CUDA=on".strip()
        built.setdefault("CUDACXX", find_nvcc() or "nvcc")
    return built


def jobs() -> int:
    """Compilers at once: one a core, and 2 GiB of memory for each."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(os.cpu_count() or 1, memory // 2**31))


def cache_of_its_own(env: Mapping[str, str]) -> tuple[str, ...]:
    """Flags that give each set of CMAKE_ARGS a pip cache; pip's own would hold one wheel for them all."""
    flags = env.get("CMAKE_ARGS")
    if not flags:
        return ()
    usual = Path(env.get("XDG_CACHE_HOME") or "~/.cache") / "router"
    try:
        home = Path(env.get("ROUTER_CACHE") or usual).expanduser()
    except RuntimeError:
        reason = f"HOME is not set, and the user id {os.getuid()} has no entry in /etc/passwd"
        raise InstallError(f"{reason}: set ROUTER_CACHE to a folder that may be written") from None
    return ("--cache-dir", str(home / "pip" / hashlib.sha256(flags.encode()).hexdigest()[:12]))


def run_with_beat(command: list[str], env: Mapping[str, str], log: Path, beat: float = BEAT) -> int:
    """Run to the end with all output in `log`, and say every `beat` seconds how far it is."""
    started = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env)
        try:
            while True:
                try:
                    return process.wait(beat)
                except subprocess.TimeoutExpired:
                    say(f"  {elapsed(started)}  {activity(log)}")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()


def activity(log: Path) -> str:
    """What pip is doing, from the end of its log."""
    end = tail(log, 16 * 1024)
    if steps := _COMPILED.findall(end):
        done, total, percent = (part.decode() for part in steps[-1])
        return f"compiling llama.cpp: {f'{percent}%' if percent else f'{done} of {total} files'}"
    known = _PIP_STEP.findall(end.decode(errors="replace"))
    return known[-1][:100] if known else "pip is at work"


def explain(log: Path) -> str:
    """The end of the log, and what is missing on this machine if that is the reason."""
    text = tail(log, 6000).decode(errors="replace").strip()
    report = [f"--- the end of {log} ---", *text.splitlines()[-30:], "---"]
    if missing := missing_tools():
        report.append(f"llama.cpp is compiled on this machine and needs {' and '.join(missing)}.")
        report.append("Debian, Ubuntu: apt install build-essential; Fedora: dnf install gcc-c++ make;")
        report.append("macOS: xcode-select --install. (cmake comes with the build, from the package index.)")
    return "\n".join(report)


def missing_tools() -> list[str]:
    return [what for what, names in _TOOLS.items() if not any(shutil.which(name) for name in names.split())]


def tail(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read()


def elapsed(since: float) -> str:
    minutes, seconds = divmod(int(time.monotonic() - since), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
