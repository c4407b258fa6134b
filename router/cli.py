"""
The `router` command: its verbs, and what they print.

The one rule: nothing heavy is imported before a verb needs it, so that `router --help` answers at once.
Exit status: 0 done, 1 the gateway is not there or said no, 2 the command or the registry is wrong, 3 `check` misses
model files and nothing else, 70 the gateway ended after an error of its own.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from router import __version__
from router.domain.errors import RegistryInvalid, RouterError
from router.simulate.command import simulate

if TYPE_CHECKING:
    from router.client import Client
    from router.registry.loader import Registry
    from router.validation import Verdict

app = typer.Typer(
    help="A gateway for local LLMs: many GGUF models, one device, swaps on demand.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Level = Literal["debug", "info", "warning", "error"]

DEFAULT_REGISTRY = Path("config/registry.yaml")
LOCAL = "http://127.0.0.1:8080"
FAILED = 70
"""Exit status of a gateway that ended because of an error of its own: EX_SOFTWARE of sysexits.h."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Url = Annotated[str, typer.Option(envvar="ROUTER_URL", help="The running gateway.")]
ApiKey = Annotated[str, typer.Option("--key", envvar="ROUTER_API_KEY", help="A key of its registry.")]
Hosts = Annotated[
    list[str] | None,
    typer.Option(envvar="ROUTER_ALLOW_HOST", help="A name it answers to without keys; repeat for more."),
]
Origins = Annotated[
    list[str] | None,
    typer.Option(envvar="ROUTER_CORS_ORIGIN", help="A web page's origin that may use it, or *; repeat."),
]
RegistryFile = Annotated[Path, typer.Argument(envvar="ROUTER_REGISTRY", help="The registry to look at.")]


def _sandbox(told: str) -> str:
    from router.protocol import sandbox_layers

    try:
        sandbox_layers(told)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return told


Spares = Annotated[
    int | None,
    typer.Option(envvar="ROUTER_SPARES", min=0, max=8, help="Warm workers; 1, on four cores or more 2."),
]
SandboxLayers = Annotated[
    str,
    typer.Option(
        envvar="ROUTER_SANDBOX", help="auto, on (or no worker starts), off, or layers.", callback=_sandbox
    ),
]


# The gateway -----------------------------------------------------------------------------------------------


@app.command()
def serve(
    registry: Annotated[
        Path, typer.Option(envvar="ROUTER_REGISTRY", help="What to serve; edits take effect while it runs.")
    ] = DEFAULT_REGISTRY,
    host: Annotated[str, typer.Option(envvar="ROUTER_HOST")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="ROUTER_PORT", min=0, max=65535, help="0 = any free one.")
    ] = 8080,
    log_level: Annotated[Level, typer.Option(envvar="ROUTER_LOG_LEVEL")] = "info",
    drain: Annotated[
        float,
        typer.Option(envvar="ROUTER_DRAIN", min=0, help="Seconds that running requests get after SIGTERM."),
    ] = 30.0,
    allow_open: Annotated[
        bool, typer.Option(envvar="ROUTER_ALLOW_OPEN", help="Serve other machines without keys.")
    ] = False,
    allow_host: Hosts = None,
    cors_origin: Origins = None,
    spares: Spares = None,
    sandbox: SandboxLayers = "auto",
    backend: Annotated[Literal["llama", "echo"], typer.Option(help="echo: no model, for tests.")] = "llama",
    as_json: Annotated[bool, typer.Option("--json", help="JSON log lines and a JSON ready line.")] = False,
) -> None:
    """Serve the models of a registry until SIGTERM or Ctrl-C."""
    from router import log_sink

    # First of all: what is printed from here on must neither end the gateway nor hold it up.
    log_sink.protect_streams()
    from router import bootstrap, telemetry
    from router.settings import Settings, warm

    with _exits(as_json, RouterError, 2), _exits(as_json, bootstrap.GatewayFailed, FAILED):
        settings = Settings(
            registry=registry,
            host=host,
            port=port,
            log_level=log_level,
            log_json=True if as_json else None,
            drain_seconds=drain,
            allow_open=allow_open,
            allow_hosts=tuple(allow_host or ()),
            cors_origins=tuple(cors_origin or ()),
            spares=warm() if spares is None else spares,
            sandbox=sandbox,
            backend=backend,
        )
        telemetry.configure_logging(log_level, settings.log_json)
        bootstrap.run(settings, functools.partial(_say_ready, as_json))


def _say_ready(as_json: bool, loaded: Registry, url: str) -> None:
    from router import display

    line = json.dumps({"url": url, **display.registry_facts(loaded)})
    print(line if as_json else display.banner(loaded, url), flush=True)


# The registry ----------------------------------------------------------------------------------------------


@app.command()
def check(
    registry: RegistryFile = DEFAULT_REGISTRY,
    syntax_only: Annotated[
        bool, typer.Option("--syntax-only", help="The text alone: no model file, no device, no engine.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """
    Judge a registry as `serve` would here; show what each model needs.

    Exit status: 0 good, 2 something is wrong, 3 only model files are missing. Bytes that llama.cpp could not be asked
    about are the formula's: "at most" so many.
    """
    from router import telemetry, validation
    from router.registry import loader
    from router.settings import cache_home

    with _exits(as_json, RouterError, validation.WRONG):
        if syntax_only:
            _show_text(loader.load_text(registry), as_json)
            return
        with telemetry.silenced():
            verdict = validation.judge(registry, cache_home(), say=_aside)
    _show_verdict(verdict, as_json)
    if verdict.status:
        raise typer.Exit(verdict.status)


def _show_text(loaded: Registry, as_json: bool) -> None:
    names = list(loaded.models)
    facts = {"registry": str(loaded.path), "models": names, "warnings": list(loaded.warnings)}
    _done(as_json, facts, f"the text is right: {len(names)} models; their files were not looked at")
    for warning in () if as_json else loaded.warnings:
        _aside(f"warning: {warning}")


def _show_verdict(verdict: Verdict, as_json: bool) -> None:
    from router import display

    if as_json:
        _print_json(display.verdict_facts(verdict))
        return
    loaded = verdict.registry
    display.show(display.footprints(loaded, verdict.unsure))
    print(display.what_fits(loaded))
    if loaded.upstreams or loaded.routes:
        display.show(display.routes(loaded))
    for warning in loaded.warnings:
        _aside(f"warning: {warning}")
    if verdict.not_asked:
        _aside(
            f"warning: llama.cpp could not be asked, so some bytes are at most so many: {verdict.not_asked}"
        )


def _aside(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@app.command()
def schema(
    write: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it there instead.")] = None,
    as_json: AsJson = True,
) -> None:
    """Print the registry's JSON schema (it is JSON either way)."""
    from router.registry.schema import json_schema

    text = json.dumps(json_schema(), indent=2) + "\n"
    if write is None:
        sys.stdout.write(text)
        return
    with _exits(False, OSError, 2):
        write.write_text(text)


app.command()(simulate)


# A running gateway -----------------------------------------------------------------------------------------


@app.command()
def ls(url: Url = LOCAL, key: ApiKey = "", as_json: AsJson = False) -> None:
    """List the models of a running gateway."""
    from router import display
    from router.client import ModelEntry

    with _gateway(url, key, as_json) as gateway:
        answer = gateway.models()
        entries = gateway.convert(answer, list[ModelEntry])
    _print_json(answer) if as_json else display.show(display.model_list(entries))


@app.command()
def ps(url: Url = LOCAL, key: ApiKey = "", as_json: AsJson = False) -> None:
    """Show which models are in memory, what they hold and what they do."""
    from router import display
    from router.client import Running

    with _gateway(url, key, as_json) as gateway:
        answer = gateway.running()
        now = gateway.convert(answer, Running)
    if as_json:
        _print_json(answer)
    else:
        display.show(display.instances(now))
        print(*display.memory(now), sep="\n")


@app.command()
def load(name: str, url: Url = LOCAL, key: ApiKey = "", as_json: AsJson = False) -> None:
    """Bring a model into memory and wait until it is ready. Ctrl-C stops the waiting only."""
    with _gateway(url, key, as_json) as gateway:
        try:
            _follow_load(gateway, name, quiet=as_json)
        except KeyboardInterrupt:
            print(f"\nno longer waiting; the gateway goes on loading {name}", file=sys.stderr)
            raise typer.Exit(130) from None
    _done(as_json, {"model": name, "status": "loaded"}, f"{name} is loaded")


def _follow_load(gateway: Client, name: str, quiet: bool) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as bar:
        task = bar.add_task(f"{name}: waiting", total=1.0)
        for step in gateway.load(name):
            bar.update(task, description=f"{name}: {step.stage}", completed=step.fraction)


@app.command()
def unload(
    name: Annotated[str | None, typer.Argument(help="One model.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that no request waits for.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also what requests wait for; those are refused.")
    ] = False,
    url: Url = LOCAL,
    key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Take a model, or all, out of memory; requests that run finish first."""
    if (name is None) != every:
        raise typer.BadParameter("name one model, or say --all")
    with _gateway(url, key, as_json) as gateway:
        gateway.unload(name, force)
    _done(as_json, {"model": name, "status": "unloading"}, f"unloading {name or 'all models'}")


@app.command()
def reload(
    force: Annotated[bool, typer.Option("--force", help="Apply also what makes things worse.")] = False,
    url: Url = LOCAL,
    key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Have the running gateway read its registry again; a registry that is refused changes nothing."""
    from router import display
    from router.client import Reloaded

    with _gateway(url, key, as_json) as gateway:
        answer = gateway.reload(force)
        told = gateway.convert(answer, Reloaded)
    _print_json(answer) if as_json else print(*display.reloaded(told), sep="\n")


# The rest --------------------------------------------------------------------------------------------------


@app.command()
def demo(as_json: AsJson = False) -> None:
    """Fetch the demo models into the user's cache."""
    from router import demo as models
    from router.settings import cache_home

    with _exits(as_json, RouterError, 1):
        paths = models.fetch(cache_home(), say=lambda line: print(line, file=sys.stderr, flush=True))
    if as_json:
        _print_json({kind: str(path) for kind, path in paths.items()})
    else:
        print(f"demo models: {next(iter(paths.values())).parent}")


@app.command()
def version(as_json: AsJson = False) -> None:
    """Print the versions of router, llama-cpp-python and Python, and what workers are held by here."""
    import platform
    import subprocess
    from importlib import metadata

    tried = [sys.executable, "-P", "-m", "router.worker.sandbox"]
    holds = subprocess.run(tried, stdout=subprocess.PIPE, text=True, check=False, cwd="/").stdout.split()

    try:
        engine = metadata.version("llama-cpp-python")
    except metadata.PackageNotFoundError:
        engine = "not installed"
    facts = {"router": __version__, "llama-cpp-python": engine, "python": platform.python_version()}
    text = "\n".join(f"{name} {value}" for name, value in facts.items())
    _done(as_json, {**facts, "sandbox": holds}, f"{text}\nsandbox {' '.join(holds) or 'none'}")


# Printing --------------------------------------------------------------------------------------------------


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))


def _done(as_json: bool, facts: dict[str, Any], text: str) -> None:
    _print_json(facts) if as_json else print(text)


@contextlib.contextmanager
def _gateway(url: str, key: str, as_json: bool) -> Iterator[Client]:
    from router.client import Client

    with _exits(as_json, RouterError, 1), Client(url, key or None) as client:
        yield client


@contextlib.contextmanager
def _exits(as_json: bool, kind: type[Exception], code: int) -> Iterator[None]:
    """Turn an expected error into its words on stderr and an exit status."""
    try:
        yield
    except kind as error:
        problems = list(error.problems) if isinstance(error, RegistryInvalid) else [str(error)]
        if as_json:
            _print_json({"errors": problems})
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr)
        raise typer.Exit(code) from None
