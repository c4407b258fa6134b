"""
What the file says of everything beyond this machine -> upstreams and routes.

The one rule: nothing is reached from here, and of a key only whether it is there is looked at.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from router.domain.routes import Route, Spill
from router.domain.upstreams import Budget, KeySource, Price, Timeouts, Upstream, micro_of
from router.registry import cloud_schema as written
from router.registry.document import Path as KeyPath
from router.registry.schema import Model, RegistryFile
from router.settings import NoHome, expanded

Said = tuple[KeyPath, str]
"""What is to be told of a place in the file."""


def upstreams(file: RegistryFile, folder: Path) -> dict[str, Upstream]:
    """By name: cloud entries first, then `peer/model`. `folder` is where relative paths begin."""
    by_key = {key.name: _budget(key.budget) for key in file.keys or () if key.budget}
    found = {name: _upstream(name, entry, folder, by_key) for name, entry in (file.cloud or {}).items()}
    for peer, entry in (file.peers or {}).items():
        for model in entry.models:
            name = f"{peer}/{model}"
            found[name] = _endpoint(name, model, entry, folder)
    return found


def routes(
    file: RegistryFile, aliases: Mapping[str, str], upstreams: Mapping[str, Upstream]
) -> dict[str, Route]:
    """By name, candidates by their own names."""
    return {name: _route(name, route, aliases, upstreams) for name, route in (file.routes or {}).items()}


def aliases(file: RegistryFile) -> dict[str, str]:
    """Alias -> name, of models, cloud entries and routes alike."""
    sections: tuple[Mapping[str, Model | written.Cloud | written.Route], ...] = (
        file.models,
        file.cloud or {},
        file.routes or {},
    )
    return {
        alias: name
        for section in sections
        for name, entry in section.items()
        for alias in entry.aliases or ()
    }


def spill(section: written.Spill | None, spills: bool) -> Spill | None:
    if not spills:
        return None
    wait = section.max_wait if section else None
    price = _price(section.max_price if section else None)
    return Spill(max_price=price) if wait is None else Spill(wait, price)


def problems(file: RegistryFile) -> Iterator[Said]:
    """What one entry says and does not go together."""
    for section, entries in (("cloud", file.cloud), ("peers", file.peers)):
        for name, entry in (entries or {}).items():
            if entry.base_url.startswith("http:") and not entry.allow_private:
                yield (
                    (section, name, "base_url"),
                    "http is for your own network: write https, or allow_private: true",
                )
            yield from _homeless(section, name, entry)
    for name, cloud in (file.cloud or {}).items():
        if cloud.budget and not cloud.price:
            yield (("cloud", name, "budget"), "a budget needs a price to count with")
    for name, route in (file.routes or {}).items():
        if route.spill and route.cloud in ("never", "fallback"):
            yield (
                ("routes", name, "spill"),
                f"spill needs cloud: spill, and the route says cloud: {route.cloud}",
            )
        if route.reasoning_effort and not route.accuracy:
            yield (
                ("routes", name, "reasoning_effort"),
                "it is another way to ask for accuracy: write accuracy: high",
            )
    for name, model in file.models.items():
        if model.spill and model.cloud != "spill":
            yield (
                ("models", name, "spill"),
                f"spill needs cloud: spill, and the model says {model.cloud or 'never'}",
            )


def _homeless(section: str, name: str, entry: written.Endpoint) -> Iterator[Said]:
    key = entry.api_key.file if isinstance(entry.api_key, written.FileKey) else None
    for field, text in (("api_key", key), ("ca_file", entry.ca_file)):
        try:
            expanded(text or "")
        except NoHome as error:
            yield (section, name, field), error.message


def warnings(file: RegistryFile, folder: Path) -> Iterator[Said]:
    """Keys that are not there (yet)."""
    for section, entries in (("cloud", file.cloud), ("peers", file.peers)):
        for name, entry in (entries or {}).items():
            if reason := _missing_key(entry.api_key, folder):
                yield (section, name, "api_key"), reason


def _missing_key(key: written.EnvKey | written.FileKey | None, folder: Path) -> str | None:
    match key:
        case written.EnvKey(env=name) if not os.environ.get(name):
            return f"the environment variable {name} is not set here"
        case written.FileKey(file=file) if not os.access(_path(file, folder), os.R_OK):
            return "there is no such file, or it cannot be read"
        case _:
            return None


def _upstream(name: str, entry: written.Cloud, folder: Path, by_key: Mapping[str, Budget]) -> Upstream:
    said = entry.model_dump(include={"max_tokens", "max_tokens_field", "context"}, exclude_none=True)
    return msgspec.structs.replace(
        _endpoint(name, entry.model, entry, folder),
        price=_price(entry.price),
        budget=_budget(entry.budget),
        budgets_by_key=by_key if entry.price else {},
        retains=entry.data_collection == "allow",
        **said,
    )


def _endpoint(name: str, model: str, entry: written.Endpoint, folder: Path) -> Upstream:
    waits = entry.timeouts.model_dump(exclude_none=True) if entry.timeouts else {}
    return Upstream(
        name=name,
        base_url=entry.base_url.rstrip("/"),
        model=model,
        api_key=_key(entry.api_key, folder),
        allow_private=entry.allow_private,
        ca_file=str(_path(entry.ca_file, folder)) if entry.ca_file else None,
        timeouts=msgspec.structs.replace(Timeouts(), **waits),
        peer=isinstance(entry, written.Peer),
    )


def _key(key: written.EnvKey | written.FileKey | None, folder: Path) -> KeySource | None:
    match key:
        case written.EnvKey(env=name):
            return KeySource("env", name)
        case written.FileKey(file=file):
            return KeySource("file", str(_path(file, folder)))
        case None:
            return None


def _path(text: str, folder: Path) -> Path:
    try:
        return folder / expanded(text)
    except NoHome:  # one of the `problems`
        return folder / text


def _price(price: written.Price | None) -> Price | None:
    return Price(price.input, price.output) if price else None


def _budget(budget: written.Budget | None) -> Budget:
    if budget is None:
        return Budget()
    return Budget(*(None if usd is None else micro_of(usd) for usd in (budget.day, budget.month)))


def _route(
    name: str, route: written.Route, aliases: Mapping[str, str], upstreams: Mapping[str, Upstream]
) -> Route:
    candidates = tuple(aliases.get(candidate, candidate) for candidate in route.candidates)
    leaves = any(candidate in upstreams for candidate in candidates)
    cloud = route.cloud or ("spill" if route.spill else "fallback" if leaves else "never")
    return Route(
        name=name,
        candidates=candidates,
        aliases=tuple(route.aliases or ()),
        cloud=cloud,
        spill=spill(route.spill, cloud == "spill"),
        accuracy=route.accuracy,
        reasoning_effort=route.reasoning_effort,
    )
