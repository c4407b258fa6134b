from __future__ import annotations

import platform
import pwd
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from router import protocol
from router.worker import landlock, sandbox, seccomp
from router.worker.sandbox import Sandbox, SandboxMissing, parts
from tests.worker.kernel import needs_landlock
from tests.worker.prison import printed

HELD = [
    layer
    for layer in protocol.SANDBOX_LAYERS
    if (layer != "landlock" or landlock.version())
    and (layer != "seccomp" or platform.machine() in seccomp.MACHINES)
]
"""What this machine can hold. Short of all four, the tests below test less, and say so by their length."""

ENTER = "box = sandbox.Sandbox(sys.argv[1])\nbox.enter()\n"


def test_all_layers_that_this_kernel_has_are_seen_to_hold() -> None:
    assert printed(f"{ENTER}print(*box.holds)", "auto") == [" ".join(HELD)]


@pytest.mark.parametrize("layer", HELD)
def test_each_layer_can_be_had_alone(layer: str) -> None:
    script = f"{ENTER}print(*box.holds)\nprint(tried(socket.socket, socket.AF_INET))"
    held, network = printed(script, layer)
    assert held == layer
    assert network == ("Address family not supported by protocol" if layer == "seccomp" else "done")


def test_switched_off_nothing_is_given_up(tmp_path: Path) -> None:
    script = f"{ENTER}print(box.holds)\nbox.confine('/m')\nprint(tried(Path('/etc/passwd').read_text))"
    assert printed(script, "off") == ["()", "done"]


@needs_landlock
def test_after_the_model_is_named_the_python_library_is_open_and_other_files_are_not(tmp_path: Path) -> None:
    model, other = tmp_path / "model.gguf", tmp_path / "other.gguf"
    model.write_text("x")
    other.write_text("x")
    script = f"""{ENTER}
model, other = map(Path, sys.argv[2:])
print(tried(other.read_text))
box.confine(str(model))
print(tried(model.read_text), tried(other.read_text), tried(other.write_text, "y"))
import xml.dom.minidom, msgspec.json
print(tried(Path("/proc/self/status").read_text))
"""
    denied = "Permission denied"
    assert printed(script, "auto", str(model), str(other)) == ["done", f"done {denied} {denied}", "done"]


@needs_landlock
def test_a_package_that_is_imported_may_look_for_its_own_files_wherever_it_is_installed(
    tmp_path: Path,
) -> None:
    (tmp_path / "engine_package" / "lib").mkdir(parents=True)
    (tmp_path / "engine_package" / "__init__.py").write_text("")
    (tmp_path / "other").mkdir()
    script = f"""{ENTER}
folder = Path(sys.argv[2])
sys.path.insert(0, str(folder))
import engine_package
box.confine("/dev/null")
print(tried(lambda: list((folder / "engine_package" / "lib").iterdir())))
print(tried(lambda: os.listdir(folder / "other")))
"""
    assert printed(script, "auto", str(tmp_path)) == ["done", "Permission denied"]


@needs_landlock
def test_a_dry_run_is_confined_by_itself(tmp_path: Path) -> None:
    script = f"""{ENTER}
path = sys.argv[2]
print(box.confined("/dev/null", lambda: tried(Path(path).read_text)))
print(tried(Path(path).read_text))
"""
    (tmp_path / "other").write_text("x")
    wanted = ["Permission denied", "done"]
    assert printed(script, "auto", str(tmp_path / "other")) == wanted


def test_what_is_done_on_a_thread_of_its_own_comes_back_and_so_do_its_errors() -> None:
    box = Sandbox("off")
    assert box.confined("/m", lambda: threading.current_thread().name) == "confined"
    with pytest.raises(KeyError):
        box.confined("/m", lambda: {}["no"])


def test_no_core_dump_is_written_and_files_are_few() -> None:
    script = f"""{ENTER}
import resource
print(resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_NOFILE)[1] <= 4096)
"""
    assert printed(script, "rlimits") == ["(0, 0) True"]


def test_memory_is_bounded_by_the_model_once_it_is_known() -> None:
    script = f"""{ENTER}
def take(size):
    try:
        return len(bytearray(size))
    except MemoryError:
        return "refused"
print(take(3 * 2**30))
box.bound_memory(200 * 2**20)
print(take(200 * 2**20), take(3 * 2**30))
"""
    assert printed(script, "rlimits") == [str(3 * 2**30), f"{200 * 2**20} refused"]
    assert printed(script, "seccomp") == [str(3 * 2**30), f"{200 * 2**20} {3 * 2**30}"]


def test_tasks_are_bounded_beside_what_runs() -> None:
    script = f"""
before = sandbox._tasks()
{ENTER}
import resource
print(before < resource.getrlimit(resource.RLIMIT_NPROC)[1] < 2 * before + 5000)
"""
    assert printed(script, "rlimits") == ["True"]


@needs_landlock
def test_a_thread_that_was_there_before_is_seen_and_landlock_is_not_claimed() -> None:
    script = f"""
done = threading.Event()
threading.Thread(target=done.wait).start()
{ENTER}
print(*box.holds)
done.set()
"""
    assert printed(script, "auto") == [" ".join(layer for layer in HELD if layer != "landlock")]


def test_a_missing_layer_is_a_warning_or_the_end_as_it_was_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(gpu: bool) -> bool:
        raise OSError("not in this kernel")

    layers = dict.fromkeys(protocol.SANDBOX_LAYERS, lambda gpu: True)
    monkeypatch.setattr(sandbox, "_LAYERS", {**layers, "seccomp": missing, "rlimits": lambda gpu: False})
    box = Sandbox("auto")
    box.enter()
    assert box.holds == ("no_new_privs", "landlock")
    told = capsys.readouterr().err
    assert "not in this kernel" in told and "rlimits was set and does not hold" in told
    with pytest.raises(SandboxMissing, match="rlimits cannot be had"):
        Sandbox("on").enter()


def test_another_system_than_linux_has_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    box = Sandbox("auto")
    box.enter()
    assert box.holds == ()


def test_a_model_in_several_files_is_all_of_them(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        (tmp_path / f"m-0000{number}-of-00003.gguf").touch()
    (tmp_path / "m-00001-of-00004.gguf").touch()
    found = parts(str(tmp_path / "m-00001-of-00003.gguf"))
    assert [file.name for file in found] == [f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert parts("/models/m.gguf") == [Path("/models/m.gguf")]


def test_asked_by_itself_it_prints_what_holds() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "router.worker.sandbox"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == HELD


def test_a_user_without_a_home_has_a_sandbox_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    places = Sandbox("off", gpu=True)._writable()
    assert "/dev/null" in places
    assert not any("~" in str(place) for place in places)
