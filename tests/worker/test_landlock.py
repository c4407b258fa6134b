from __future__ import annotations

from pathlib import Path

import pytest

from router.worker import landlock
from tests.worker.kernel import needs_an_ordinary_user, needs_landlock, needs_landlock_4, needs_landlock_6
from tests.worker.prison import printed

ENTER = "sandbox.no_new_privs()\nlandlock.enter([sys.argv[1]], sys.argv[2:])\n"


@needs_landlock
def test_only_what_is_named_can_be_opened_and_only_as_named(tmp_path: Path) -> None:
    model, other, scratch = tmp_path / "model.gguf", tmp_path / "other.gguf", tmp_path / "scratch"
    scratch.mkdir()
    for file in (model, other, scratch / "old"):
        file.write_text("x")
    script = f"""{ENTER}
model, scratch = Path(sys.argv[1]), Path(sys.argv[2])
print(tried(model.read_text))
print(tried(model.write_text, "y"))
print(tried(model.with_name("other.gguf").read_text))
print(tried(os.listdir, model.parent))
print(tried(model.unlink))
print(tried((scratch / "new").write_text, "y"), tried((scratch / "old").unlink))
print(tried(Path("/proc/1/environ").read_bytes))
"""
    denied = "Permission denied"
    wanted = ["done", denied, denied, denied, denied, "done done", denied]
    assert printed(script, str(model), str(scratch)) == wanted
    assert model.read_text() == "x"


@needs_landlock
def test_threads_that_were_started_before_are_free_and_those_after_are_not(tmp_path: Path) -> None:
    script = f"""
go = threading.Event()
secret = Path(sys.argv[1]).with_name("secret")
before = threading.Thread(target=lambda: (go.wait(), print(tried(secret.read_text))))
before.start()
{ENTER}
go.set()
before.join()
after = threading.Thread(target=lambda: print(tried(secret.read_text)))
after.start()
after.join()
"""
    (tmp_path / "secret").write_text("x")
    assert printed(script, str(tmp_path / "model")) == ["done", "Permission denied"]


@needs_landlock_6
def test_a_confined_process_sends_no_signal_to_its_gateway() -> None:
    assert printed(f"{ENTER}print(tried(os.kill, os.getppid(), 0))", "/dev/null") == [
        "Operation not permitted"
    ]


@needs_landlock_4
def test_a_confined_process_connects_to_nobody() -> None:
    script = f"{ENTER}print(tried(socket.socket().connect, ('127.0.0.1', 9)))"
    assert printed(script, "/dev/null") == ["Permission denied"]


@needs_an_ordinary_user
@needs_landlock
def test_without_no_new_privs_the_kernel_refuses() -> None:
    assert printed("print(tried(landlock.enter, []))") == ["landlock: Operation not permitted"]


def test_a_kernel_without_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)
    with pytest.raises(OSError, match="no Landlock"):
        landlock.enter(["/"])
