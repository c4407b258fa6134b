from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from router.cli import app
from tests.engine import tiny

ENTRY = {
    "id": "a",
    "status": {"value": "loaded"},
    "aliases": ["x"],
    "context_length": 512,
    "meta": {"size": 2**30},
}
RUNNING = {
    "running": [
        {"id": "a#1", "model": "a", "phase": "ready", "bytes": 2**30, "slots": 4, "leases": 1, "pid": 9}
    ],
    "memory": {"budget": 2**31, "used": 2**30, "reserved": 0, "free": 2**30},
    "waiting": {},
    "failed": {},
}
ANSWERS: dict[str, Any] = {
    "/v1/models": {"object": "list", "data": [ENTRY]},
    "/running": RUNNING,
    "/models/load": {"success": True},
    "/models/unload": {"success": True},
    "/unload": {"success": True},
    "/admin/reload": {"outcome": "unchanged"},
    "/admin/reload?force=true": {"outcome": "applied", "added": ["b"], "broken": {"b": "too large"}},
}


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, list(arguments))


@pytest.fixture
def url() -> Iterator[str]:
    """A gateway that answers what ANSWERS says; any other path is a 404 in the house's shape."""

    class Gateway(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            known = self.path in ANSWERS
            body = json.dumps(ANSWERS.get(self.path, {"error": {"message": "no such path"}})).encode()
            self.send_response(200 if known else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Quiet: the tests read stderr."""

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Gateway)) as address:
        yield address


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[str]:
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry of one small model, and a cache of its own."""
    monkeypatch.setenv("ROUTER_CACHE", str(tmp_path / "cache"))
    tiny.llama(tmp_path / "a.gguf")
    path = tmp_path / "registry.yaml"
    path.write_text(
        "version: 1\ndevices: {host: {budget: 1GiB}}\nmodels:\n  a: {path: a.gguf, context: 256}\n"
    )
    return path


# Without a gateway -----------------------------------------------------------------------------------------


def test_help_names_every_verb() -> None:
    words = run("--help").output.split()
    assert {"serve", "check", "schema", "ls", "ps", "load", "unload", "reload", "version", "demo"} <= set(
        words
    )


def test_help_loads_nothing_heavy() -> None:
    heavy = "starlette pydantic uvicorn rich.table httpx2 llama_cpp numpy"
    code = f"import sys, router.cli; print([m for m in {heavy!r}.split() if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_version_as_json_has_router_engine_python_and_what_workers_are_held_by() -> None:
    assert set(json.loads(run("version", "--json").output)) == {
        "router",
        "llama-cpp-python",
        "python",
        "sandbox",
    }


def test_schema_prints_json_and_writes_the_same_to_a_file(tmp_path: Path) -> None:
    printed = run("schema").output
    assert json.loads(printed)["$schema"].startswith("https://json-schema.org")
    assert run("schema", "--write", str(tmp_path / "s.json")).exit_code == 0
    assert (tmp_path / "s.json").read_text() == printed


def test_a_schema_that_cannot_be_written_is_an_error_without_a_traceback(tmp_path: Path) -> None:
    result = run("schema", "--write", str(tmp_path / "no" / "s.json"))
    assert (result.exit_code, result.stderr.startswith("error:")) == (2, True)


def test_check_of_a_good_registry_shows_what_each_model_needs(registry: Path) -> None:
    result = run("check", str(registry))
    assert result.exit_code == 0, result.output
    assert "256 x" in result.stdout
    assert "The budget of 1.0 GiB" in result.stdout


def test_check_shows_routes_prices_and_what_is_wrong_with_them(registry: Path) -> None:
    text = registry.read_text() + (
        "cloud: {big: {base_url: 'https://x.example/v1', model: m, price: {input: 1, output: 2}}}\n"
        "routes: {r: {candidates: [a, big]}}\n"
    )
    registry.write_text(text)
    result = run("check", str(registry))
    assert result.exit_code == 2
    assert "'a' says cloud: never" in result.stderr
    registry.write_text(text.replace("path: a.gguf", "cloud: fallback, path: a.gguf"))
    result = run("check", str(registry))
    assert result.exit_code == 0, result.output
    assert "a, big ($1 in, $2 out)" in result.stdout


def test_check_as_json_carries_bytes(registry: Path) -> None:
    facts = json.loads(run("check", "--json", str(registry)).stdout)
    assert list(facts["budgets"].values()) == [2**30]
    assert [m["id"] for m in facts["models"]] == ["a"]


def test_check_of_a_bad_registry_lists_every_problem_with_its_line_and_ends_with_2(registry: Path) -> None:
    registry.write_text("version: 1\nmodels:\n  a: {path: a.gguf, contxt: 1}\n  b: {path: 7}\n")
    result = run("check", str(registry))
    assert result.exit_code == 2
    assert ":3:" in result.stderr
    assert ":4:" in result.stderr
    assert len(json.loads(run("check", "--json", str(registry)).stdout)["errors"]) == 2


def test_check_of_a_model_without_its_file_ends_with_3_and_names_it(registry: Path) -> None:
    (registry.parent / "a.gguf").unlink()
    result = run("check", str(registry))
    assert result.exit_code == 3
    assert "a.gguf" in result.stderr


def test_check_of_a_model_that_does_not_fit_ends_with_2_and_shows_its_bytes(registry: Path) -> None:
    registry.write_text(
        "version: 1\ndevices: {host: {budget: 10KiB}}\nmodels:\n  a: {path: a.gguf, context: 256}\n"
    )
    result = run("check", str(registry))
    assert result.exit_code == 2
    assert ":4:" in result.stderr
    assert "the budget of host is" in result.stderr
    assert "MiB" in result.stdout
    (model,) = json.loads(run("check", "--json", str(registry)).stdout)["models"]
    assert model["fits"] is False
    assert "the budget of host is" in model["problem"]


def test_check_of_pins_that_exclude_each_other_says_their_sum_as_serve_does(registry: Path) -> None:
    one = json.loads(run("check", "--json", str(registry)).stdout)["models"][0]["bytes"]["total"]
    slots = {"a": 4, "b": 3}  # two processes, not two names of one
    models = "".join(
        f"  {n}: {{path: a.gguf, context: 256, slots: {slots[n]}, pinned: true}}\n" for n in slots
    )
    registry.write_text(f"version: 1\ndevices: {{host: {{budget: {one * 3 // 2}}}}}\nmodels:\n{models}")
    result = run("check", str(registry))
    assert result.exit_code == 2
    assert ":5:" in result.stderr
    assert "all pinned models together need" in result.stderr
    assert result.stdout.count("256 x") == 2
    facts = json.loads(run("check", "--json", str(registry)).stdout)
    assert [model["fits"] for model in facts["models"]] == [True, False]


def test_check_of_a_registry_that_is_not_there_ends_with_2(tmp_path: Path) -> None:
    result = run("check", str(tmp_path / "nowhere.yaml"))
    assert result.exit_code == 2
    assert "nowhere.yaml" in result.stderr


@pytest.mark.parametrize(
    "flags",
    [
        ("--port", "70000"),
        ("--port", "x"),
        ("--log-level", "loud"),
        ("--backend", "gpt"),
        ("--drain", "-1"),
        ("--sandbox", "half"),
    ],
)
def test_serve_refuses_flags_out_of_range(flags: tuple[str, str]) -> None:
    result = run("serve", *flags)
    assert result.exit_code == 2
    assert flags[0] in result.stderr


# With a gateway --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verb", [("ls",), ("ps",), ("load", "a"), ("unload", "a"), ("reload",)], ids=lambda v: v[0]
)
def test_no_gateway_is_a_clear_message_and_status_1(verb: tuple[str, ...]) -> None:
    # Port 1 of loopback: nothing listens there.
    result = run(*verb, "--url", "http://127.0.0.1:1")
    assert result.exit_code == 1
    assert "router serve" in result.stderr


def test_an_error_as_json_is_on_stdout_too() -> None:
    result = run("ls", "--json", "--url", "http://127.0.0.1:1")
    assert json.loads(result.stdout)["errors"]


def test_ls_shows_a_row_for_each_model(url: str) -> None:
    lines = run("ls", "--url", url).stdout.splitlines()
    assert lines[1].split() == ["a", "loaded", "1.0", "GiB", "512", "x"]


def test_ps_shows_instances_and_memory(url: str) -> None:
    lines = run("ps", "--url", url).stdout.splitlines()
    assert lines[1].split() == ["a#1", "a", "ready", "1.0", "GiB", "1", "of", "4", "-", "9"]
    assert lines[2] == "1.0 GiB of 2.0 GiB held, 1.0 GiB free"


def test_json_is_what_the_gateway_said(url: str) -> None:
    assert json.loads(run("ls", "--json", "--url", url).stdout) == [ENTRY]
    assert json.loads(run("ps", "--json", "--url", url).stdout) == RUNNING


def test_load_waits_and_says_so_when_it_is_done(url: str) -> None:
    assert run("load", "a", "--url", url).stdout == "a is loaded\n"
    assert json.loads(run("load", "x", "--json", "--url", url).stdout) == {"model": "x", "status": "loaded"}


def test_the_url_comes_from_the_environment(url: str) -> None:
    result = CliRunner(env={"ROUTER_URL": url, "COLUMNS": "200"}).invoke(app, ["ls", "--json"])
    assert json.loads(result.stdout) == [ENTRY]


@pytest.mark.parametrize(
    ("arguments", "status"), [(("a",), 0), (("--all",), 0), ((), 2), (("a", "--all"), 2)]
)
def test_unload_wants_one_model_or_all(url: str, arguments: tuple[str, ...], status: int) -> None:
    assert run("unload", *arguments, "--url", url).exit_code == status


def test_reload_says_what_changed_and_may_be_forced(url: str) -> None:
    assert run("reload", "--url", url).stdout == "the registry is unchanged\n"
    assert run("reload", "--force", "--url", url).stdout.splitlines() == [
        "the registry is applied",
        "added: b",
        "cannot be loaded: b: too large",
    ]
    assert json.loads(run("reload", "--json", "--url", url).stdout) == {"outcome": "unchanged"}
