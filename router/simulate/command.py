"""
`router simulate`: a trace against a registry, on paper.

The one rule: options in, a table or JSON out; light to import, since `router --help` reads the signature.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router.domain.errors import RegistryInvalid, RouterError

if TYPE_CHECKING:
    from rich.progress import Progress

    from router.domain.memory import Bytes
    from router.domain.models import LocalModel
    from router.registry.loader import Registry
    from router.simulate.figures import Figures
    from router.simulate.machine import Machine
    from router.simulate.policies import Step
    from router.simulate.trace import Request
    from router.simulate.world import House

ALL = "cost,lru,fifo,lru-count"
MADE_UP = 1000
"""Requests, where no trace says how many."""

TimeScale = Annotated[float, typer.Option(min=1e-6, max=1e6, help="10 = the trace ten times as slowly.")]
Objective = Annotated[float, typer.Option(min=0, max=1e6, help="Seconds to a good answer's first token.")]
Read = Annotated[float, typer.Option(min=1e-3, max=1e6, help="GiB a second from file to device.")]
LoadOverhead = Annotated[float, typer.Option(min=0, max=1e6, help="Seconds of a load beside that.")]
Free = Annotated[float, typer.Option(min=0, max=1e6, help="Seconds until a model's memory is back.")]
Exit = Annotated[float, typer.Option("--exit", min=0, max=1e6, help="Seconds of a worker's end.")]
Prefill = Annotated[float, typer.Option(min=1e-3, max=1e9, help="Tokens/s, of 4 GiB of weights.")]
Decode = Annotated[float, typer.Option(min=1e-3, max=1e9, help="Tokens/s of one answer, likewise.")]
Batching = Annotated[float, typer.Option(min=0, max=1, help="n answers: n^this times one's.")]


class OptionInvalid(RouterError):
    """The words of the command line do not go together."""


def simulate(
    registry: Annotated[Path, typer.Option(envvar="ROUTER_REGISTRY", help="Models, budget and limits.")],
    trace: Annotated[
        Path | None, typer.Option(help="CSV: arrival,model,prompt_tokens,output_tokens; or an Azure trace.")
    ] = None,
    models: Annotated[str, typer.Option(help="Only these, most wanted first: a,b,c.")] = "",
    policy: Annotated[str, typer.Option(help="What to compare.")] = ALL,
    assume: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL=SIZE", help="What a model takes whose file is not here yet."),
    ] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    rate: Annotated[float, typer.Option(min=1e-6, max=1e6, help="Without --trace: requests a second.")] = 0.5,
    alpha: Annotated[float, typer.Option(min=0, max=10, help="Zipf, for requests without a model.")] = 1.0,
    seed: Annotated[int, typer.Option(help="For all that is drawn.")] = 1,
    time_scale: TimeScale = 1.0,
    slo: Objective = 10.0,
    models_max: Annotated[int | None, typer.Option(min=1, help="For lru-count: models at once.")] = None,
    read: Read = 6.4,
    load_overhead: LoadOverhead = 0.05,
    free: Free = 0.01,
    exit_seconds: Exit = 0.4,
    prefill: Prefill = 9700.0,
    decode: Decode = 250.0,
    batching: Batching = 0.55,
    write: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the trace there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Replay a trace through the real residency core: waits, swaps and goodput, policy by policy."""
    from router.simulate.machine import GiB, Machine

    machine = Machine(read * GiB, load_overhead, free, exit_seconds, prefill, decode, batching)
    with _said_plainly(as_json):
        chosen = _policies(policy)
        found, house = _house(registry, models, assume or [], machine)
        names = list({model.name: None for model in house.models.values()})
        work = _trace(trace, names, house, requests, rate, alpha, seed, time_scale)
        if write is not None:
            _write(write, work)
        _checks(house, models_max)
        figures = _run(house, work, chosen, slo, models_max, quiet=as_json)
    _show(figures, found, house, work, slo, as_json)


# What is asked ---------------------------------------------------------------------------------------------


def _policies(text: str) -> list[str]:
    from router.simulate.policies import POLICIES

    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in POLICIES:
            raise OptionInvalid(f"--policy: there is no {name!r}; there are {', '.join(POLICIES)}")
    if not names:
        raise OptionInvalid(f"--policy: name some of {', '.join(POLICIES)}")
    return list(dict.fromkeys(names))


def _house(path: Path, only: str, assume: Sequence[str], machine: Machine) -> tuple[Registry, House]:
    from router.registry import loader
    from router.settings import cache_home
    from router.simulate.world import House
    from router.sizing import devices

    found = loader.load(path, devices.detect(), cache_home())
    wanted = _wanted(found, only)
    sizes = _sizes(found, assume)
    models = {name: _sized(found.models[name], sizes.get(name), found.budgets) for name in wanted}
    names = {**models, **{a: models[n] for a, n in found.aliases.items() if n in models}}
    return found, House(names, found.budgets, found.limits, machine)


def _wanted(found: Registry, only: str) -> list[str]:
    names = [name.strip() for name in only.split(",") if name.strip()] or list(found.models)
    resolved = [found.aliases.get(name, name) for name in names]
    for name in resolved:
        if name not in found.models:
            raise OptionInvalid(f"--models: {found.path} has no model {name!r}")
    return list(dict.fromkeys(resolved))


def _sizes(found: Registry, assume: Sequence[str]) -> dict[str, int]:
    from router.registry import quantities

    sizes = {}
    for text in assume:
        name, _, size = text.partition("=")
        if name not in found.models:
            raise OptionInvalid(f"--assume {text}: {found.path} has no model {name!r}")
        try:
            sizes[name] = quantities.size(size)
        except ValueError as error:
            raise OptionInvalid(f"--assume {text}: {error}") from error
    return sizes


def _sized(model: LocalModel, size: int | None, budgets: Bytes) -> LocalModel:
    """Of a size that is assumed: whole on any of the GPUs, or in host memory where the model would be."""
    import msgspec

    from router.domain.models import Footprint, Placement
    from router.sizing.placement import HOST

    if size is not None:
        best = model.placements[0]
        device = next(iter(best.footprints))
        on = [device] if device == HOST else [gpu for gpu in budgets if gpu != HOST]
        whole = tuple(Placement(best.engine, {gpu: Footprint(weights=size)}) for gpu in on)
        return msgspec.structs.replace(model, placements=whole, problem=None)
    if model.problem is not None:
        hint = f"say how large it is (--assume {model.name}=5GiB) or leave it out with --models"
        raise OptionInvalid(f"{model.name}: {model.problem}; {hint}")
    return model


def _trace(
    path: Path | None, names: Sequence[str], house: House, most: int | None, rate: float, alpha: float, seed: int,
    time_scale: float,
) -> list[Request]:  # fmt: skip
    from router.simulate import trace, workload

    if path is None:
        work = workload.synthetic(names, most or MADE_UP, rate, alpha, seed)
    else:
        work = workload.assign(trace.read(path, house.models, most or trace.MAX_REQUESTS), names, alpha, seed)
    return trace.stretched(work, time_scale)


def _write(path: Path, work: Sequence[Request]) -> None:
    from router.simulate import trace

    try:
        trace.write(path, work)
    except OSError as error:
        raise OptionInvalid(f"--write: {path}: {error.strerror}") from error


def _checks(house: House, models_max: int | None) -> None:
    from router.simulate.baselines import fits_by_count

    fit = fits_by_count(house.models, house.budgets)
    if models_max is not None and models_max > max(fit, 1):
        raise OptionInvalid(
            f"--models-max {models_max}: the budget holds {fit} of the largest models at once"
        )


# What is answered ------------------------------------------------------------------------------------------


def _run(
    house: House,
    work: Sequence[Request],
    policies: Sequence[str],
    slo: float,
    models_max: int | None,
    quiet: bool,
) -> list[Figures]:
    from rich.console import Console
    from rich.progress import Progress

    from router.simulate.policies import compare

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        return compare(house, work, policies, slo, models_max, _bar(bar, policies, len(work)))


def _bar(bar: Progress, policies: Sequence[str], total: int) -> Step:
    tasks = {name: bar.add_task(name, total=total) for name in policies}

    def step(policy: str, count: int) -> None:
        if count % 100 == 0 or count == total:
            bar.update(tasks[policy], completed=count)

    return step


def _show(
    found: Sequence[Figures],
    registry: Registry,
    house: House,
    work: Sequence[Request],
    slo: float,
    as_json: bool,
) -> None:
    from router.simulate import table

    if as_json:
        facts = {
            "registry": str(registry.path),
            "budgets": dict(house.budgets),
            "slo_seconds": slo,
            "bytes": "at most",
        }
        print(json.dumps({**facts, "policies": [one.facts() for one in found]}, indent=2))
        return
    from rich.console import Console

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 500)
    span = work[-1].at
    print(f"{len(work)} requests in {span:.0f} s; a good answer begins within {slo:g} s; waits in seconds\n")
    console.print(table.policies(found))
    print(f"\nBy model, under {found[0].policy}:\n")
    console.print(table.by_model(found[0]))
    print("\nWhat models take is by the formula: at most so much; router check asks llama.cpp.")


@contextlib.contextmanager
def _said_plainly(as_json: bool) -> Iterator[None]:
    """An expected error becomes its words on stderr and exit status 2."""
    from router.simulate.trace import TraceInvalid

    try:
        yield
    except RouterError as error:
        problems = error.problems if isinstance(error, RegistryInvalid | TraceInvalid) else (error.message,)
        if as_json:
            print(json.dumps({"errors": problems}, indent=2))
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr)
        raise typer.Exit(2) from None
