"""
What the command line shows: sizes for people, tables, the banner of a gateway that is ready.

The one rule: values in, text or a table out; only `show` prints.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from router import __version__
from router.client import Instance, ModelEntry, Reloaded, Running
from router.domain.memory import Bytes, fits, left
from router.domain.models import LocalModel
from router.domain.routes import Route
from router.domain.upstreams import Upstream
from router.registry.loader import Registry
from router.routing.route import as_route

if TYPE_CHECKING:
    from router.validation import Verdict

# A registry ------------------------------------------------------------------------------------------------


def banner(registry: Registry, url: str) -> str:
    """What `serve` prints once it answers: where, what fits, and three lines to copy."""
    models = list(registry.models.values())
    return "\n".join(
        [
            "",
            f"router {__version__} serves {url}",
            "",
            *(f"  {_line(model, registry.budgets)}" for model in models),
            "",
            f"  {what_fits(registry)}",
            "  Try:",
            f"    curl {url}/v1/models",
            *(f"    {_chat(url, model.name)}" for model in _two_to_try(models)),
            "",
        ]
    )


def what_fits(registry: Registry) -> str:
    """How many of the models the budgets hold at once, smallest first."""
    room, count = dict(registry.budgets), 0
    held: set[str] = set()
    sound = [model for model in registry.models.values() if model.problem is None]
    for model in sorted(sound, key=lambda model: model.footprint.total):
        if model.fingerprint in held:  # another name of the same process
            count += 1
            continue
        way = next((p for p in model.placements if fits(p.bytes, room)), None)
        if way is None:
            break
        room, count = left(room, way.bytes), count + 1
        held.add(model.fingerprint)
    shares = " and ".join(f"{size(budget)} on {device}" for device, budget in registry.budgets.items())
    budget = f"The budget of {shares} holds"
    total = len(registry.models)
    if count == 0:
        return f"{budget} none of these models."
    return f"{budget} {'every model' if count == total else f'at most {count} of {total} models'} at once."


def _line(model: LocalModel, budgets: Bytes) -> str:
    if model.problem is not None:
        return f"{model.name:<28}  cannot be loaded: {model.problem}"
    aliases = f"  also {', '.join(model.aliases)}" if model.aliases else ""
    over = "" if _can_fit(model, budgets) else "  does not fit the budget"
    return f"{model.name:<28} {size(model.footprint.total):>9}{aliases}{over}"


def _can_fit(model: LocalModel, budgets: Bytes) -> bool:
    return any(fits(placement.bytes, budgets) for placement in model.placements)


def _two_to_try(models: Sequence[LocalModel]) -> list[LocalModel]:
    """The smallest and the largest that can chat: the pair that is likeliest to swap."""
    chatty = [model for model in models if model.problem is None and not model.card.pooled]
    chatty.sort(key=lambda model: model.footprint.total)
    return chatty if len(chatty) < 2 else [chatty[0], chatty[-1]]


def _chat(url: str, model: str) -> str:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Say hello"}]})
    return f"curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'"


def footprints(registry: Registry, unsure: Collection[str] = ()) -> Table:
    """What each model needs, and whether it fits; of those that are `unsure` only the most that they need is known."""
    table = _table("model", "weights", "kv cache", "compute", "total", "context x slots", "fits")
    for model in registry.models.values():
        need = model.footprint
        parts = (need.weights, need.kv_cache, need.compute + need.overhead, need.total)
        cells = [size(part) if need.total else "-" for part in parts]
        if need.total and not model.placements[0].exact:
            cells[-1] = f"at most {cells[-1]}"
        slots = f"{model.engine.context} x {model.engine.slots}"
        _row(table, model.name, *cells, slots, _fits(model, registry.budgets, model.name in unsure))
    return table


def _fits(model: LocalModel, budgets: Bytes, unsure: bool) -> str:
    if unsure:
        return f"perhaps: at most, it {model.problem}"
    if model.problem is not None:
        return f"no: {model.problem}"
    return "yes" if _can_fit(model, budgets) else "no: it needs more than the budget"


def routes(registry: Registry) -> Table:
    """Who answers a name when the first cannot, in order, with the prices of those that cost."""
    table = _table("name", "asked in this order", "leaves", "spills after", "accuracy")
    for route in _routes(registry):
        names = ", ".join(_with_price(name, registry.upstreams.get(name)) for name in route.candidates)
        wait = duration(route.spill.max_wait) if route.spill else "-"
        _row(table, route.name, names, route.cloud, wait, route.accuracy or "-")
    return table


def _routes(registry: Registry) -> list[Route]:
    """Those written as such, and models with fallbacks."""
    own = [as_route(model) for model in registry.models.values() if model.fallback]
    return [*registry.routes.values(), *own]


def _with_price(name: str, upstream: Upstream | None) -> str:
    if upstream is None:
        return name
    price = upstream.price
    return f"{name} (${price.input:f} in, ${price.output:f} out)" if price else f"{name} (free)"


def verdict_facts(verdict: Verdict) -> dict[str, Any]:
    """The same with what could not be found out: `fits` is null then, and `exact` says whose the bytes are."""
    facts = registry_facts(verdict.registry)
    for model in facts["models"]:
        model["exact"] = verdict.registry.models[model["id"]].placements[0].exact
        if model["id"] in verdict.unsure:
            model["fits"] = None
    return {**facts, "missing": list(verdict.missing), "not_asked": verdict.not_asked}


def registry_facts(registry: Registry) -> dict[str, Any]:
    """The registry as JSON for scripts; sizes in bytes."""
    return {
        "registry": str(registry.path),
        "budgets": dict(registry.budgets),
        "models": [_model_facts(model, registry.budgets) for model in registry.models.values()],
        "routes": [_route_facts(route) for route in _routes(registry)],
        "upstreams": [_upstream_facts(upstream) for upstream in registry.upstreams.values()],
        "warnings": list(registry.warnings),
    }


def _route_facts(route: Route) -> dict[str, Any]:
    return {
        "id": route.name,
        "aliases": list(route.aliases),
        "candidates": list(route.candidates),
        "cloud": route.cloud,
        "spill_seconds": route.spill.max_wait if route.spill else None,
        "accuracy": route.accuracy,
    }


def _upstream_facts(upstream: Upstream) -> dict[str, Any]:
    price = upstream.price
    return {
        "id": upstream.name,
        "base_url": upstream.base_url,
        "model": upstream.model,
        "peer": upstream.peer,
        "usd_per_million_tokens": {"input": float(price.input), "output": float(price.output)}
        if price
        else None,
    }


def _model_facts(model: LocalModel, budgets: Bytes) -> dict[str, Any]:
    need = model.footprint
    return {
        "id": model.name,
        "aliases": list(model.aliases),
        "path": model.path,
        "context": model.engine.context,
        "slots": model.engine.slots,
        "gpu_layers": model.engine.gpu_layers,
        "bytes": {
            "weights": need.weights,
            "kv_cache": need.kv_cache,
            "compute": need.compute,
            "overhead": need.overhead,
            "total": need.total,
        },
        "fits": model.problem is None and _can_fit(model, budgets),
        "problem": model.problem,
        "cloud": model.cloud,
    }


# A running gateway -----------------------------------------------------------------------------------------


def model_list(entries: Sequence[ModelEntry]) -> Table:
    table = _table("model", "status", "file", "context", "aliases")
    for one in entries:
        status = f"{one.status.value}: {one.status.error}" if one.status.error else one.status.value
        aliases = ", ".join(one.aliases)
        _row(table, one.id, status, size(one.meta.size), _or_dash(one.context_length), aliases)
    return table


def instances(now: Running) -> Table:
    """The processes that hold a model, one a row."""
    table = _table("instance", "model", "phase", "bytes", "busy", "expires in", "pid")
    for one in now.running:
        busy = f"{_or_dash(one.leases)} of {_or_dash(one.slots)}"
        expires = duration(one.expires_in)
        names = ", ".join(one.names or (one.model,))
        _row(table, one.id, names, _phase(one), size(one.bytes), busy, expires, _or_dash(one.pid))
    return table


def _phase(one: Instance) -> str:
    return f"loading {one.progress:.0%}" if one.phase == "loading" else one.phase


def reloaded(told: Reloaded) -> list[str]:
    """What became of a reading of the registry."""
    kinds = (("added", told.added), ("removed", told.removed), ("changed", told.changed))
    changes = [f"{kind}: {', '.join(names)}" for kind, names in kinds if names]
    broken = [f"cannot be loaded: {name}: {reason}" for name, reason in told.broken.items()]
    return [f"the registry is {told.outcome}", *changes, *broken]


def memory(now: Running) -> list[str]:
    """Lines about the budget, about who waits, and about models that failed."""
    lines = []
    if (held := now.memory) is not None:
        used = size(held.used + held.reserved + held.quarantined)
        taken = f", {size(held.strangers)} taken by other processes" if held.strangers else ""
        lost = f", {size(held.quarantined)} of them by processes that do not end" if held.quarantined else ""
        lines.append(f"{used} of {size(held.budget)} held{lost}, {size(max(held.free, 0))} free{taken}")
    lines += [f"waiting for {model}: {count}" for model, count in now.waiting.items()]
    lines += [f"failed: {model}: {reason}" for model, reason in now.failed.items()]
    return lines


# Cells -----------------------------------------------------------------------------------------------------


def size(count: int | None) -> str:
    """Bytes for people, in the units that budgets are written in."""
    if count is None:
        return "-"
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def duration(seconds: float | None) -> str:
    """Seconds for people."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _row(table: Table, *cells: str) -> None:
    """Cells as they are: brackets in a model's name are no markup."""
    table.add_row(*(Text(cell) for cell in cells))


def show(table: Table) -> None:
    """Print a table to stdout; a pipe gets its rows unbroken."""
    Console(highlight=False, width=None if sys.stdout.isatty() else 500).print(table)
