"""
What may leave this machine: `cloud: never` holds through every route and fallback, or the file is refused.

The one rule: a request that can reach a model that says never can reach nothing beyond this machine, whatever
name it used. `routing` decides by these values, and `cloud` refuses again where bytes leave.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping

from router.domain.models import LocalModel
from router.domain.routes import CloudMode, Route
from router.registry.beyond import Said
from router.registry.document import Path as KeyPath
from router.registry.scalars import shown

Models = Mapping[str, LocalModel]


def problems(models: Models, routes: Mapping[str, Route], upstreams: Container[str]) -> Iterator[Said]:
    """Every way out that was not opened on both sides: by the route, and by each model in it."""
    for route in routes.values():
        path: KeyPath = ("routes", route.name, "candidates")
        yield from _of_list(path, route.candidates, route.cloud, models, upstreams)
    for model in models.values():
        path = ("models", model.name, "fallback")
        yield from _of_list(path, model.fallback, model.cloud, models, upstreams)


def warnings(models: Models, routes: Mapping[str, Route], upstreams: Container[str]) -> Iterator[Said]:
    """Permissions that nothing uses."""
    lists = [*(r.candidates for r in routes.values()), *((m.name, *m.fallback) for m in models.values())]
    leaving = [names for names in lists if any(name in upstreams for name in names)]
    for model in models.values():
        if model.cloud != "never" and not any(model.name in names for names in leaving):
            reason = (
                "has no effect: name an upstream under `fallback`, or put the model into a route with one"
            )
            yield ("models", model.name, "cloud"), reason


def _of_list(
    path: KeyPath, names: tuple[str, ...], mode: CloudMode, models: Models, upstreams: Container[str]
) -> Iterator[Said]:
    out = next((name for name in names if name in upstreams), None)
    if out is None:
        return
    for index, name in enumerate(names):
        if mode == "never":
            if name in upstreams:
                yield (*path, index), f"{shown(name)!r} is beyond this machine, and cloud is never here"
        elif (reason := _shut(models.get(name), mode)) is not None:
            yield (*path, index), f"{reason}; requests could leave through {shown(out)!r}"


def _shut(model: LocalModel | None, mode: CloudMode) -> str | None:
    if model is None:
        return None
    if model.cloud == "never":
        return f"{shown(model.name)!r} says cloud: never, which is the default; write cloud: {mode} there"
    if model.cloud == "fallback" and mode == "spill":
        return f"{shown(model.name)!r} says cloud: fallback, and this spills; write cloud: spill there"
    return None
