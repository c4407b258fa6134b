"""
Text to Registry: the whole of it, or every problem with its line.

The one rule: what is wrong in the text raises; what is wrong with a model's file marks that model alone.
"""

from __future__ import annotations

import functools
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import msgspec
from pydantic import ValidationError

from router.domain.errors import RegistryInvalid
from router.domain.models import (
    EngineOptions,
    Footprint,
    Limits,
    LocalModel,
    ModelCard,
    Placement,
)
from router.domain.routes import Route
from router.domain.upstreams import Upstream
from router.registry import beyond, document, explain, files, memory, names, quality, schema, trust
from router.registry.defaults import Said, as_written, limits_of, meant, params
from router.registry.document import Document, DocumentInvalid, Position, Problem
from router.registry.document import Path as KeyPath
from router.registry.memory import Memory
from router.sizing import estimate, gguf, placement
from router.sizing.devices import Device

DEFAULT_CONTEXT = 4096
"""Tokens of a slot where neither model nor defaults say; less where the model was trained on less."""

MAX_PROBLEMS = 100
"""So many are told, first ones first."""


@dataclass(frozen=True, slots=True)
class Key:
    """A client: `sha256` of its key in lower case; names and aliases as they were written, or "*" for all."""

    name: str
    sha256: str
    models: tuple[str, ...]
    cloud: bool = True
    """False: none of its requests leaves this machine."""
    rpm: int | None = None
    """Requests a minute; None = any number."""


@dataclass(frozen=True, slots=True)
class Registry:
    """One generation of the registry, understood. Constant: a request keeps the one that it began with."""

    path: Path
    models: Mapping[str, LocalModel]
    """In the order of the file."""
    aliases: Mapping[str, str]
    """Alias -> name of its model, upstream or route."""
    budgets: Mapping[str, int]
    """Bytes of each device that models may hold, by its name."""
    keys: tuple[Key, ...]
    limits: Limits
    warnings: tuple[str, ...]
    """`file:line:column: path: reason` each."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Model -> `file:line:column: models.name`, or the key at fault, to begin a message with."""
    written: Mapping[str, str] = field(default_factory=dict)
    """Model -> what the file says of its process, as one text: equal texts are an unchanged model."""
    upstreams: Mapping[str, Upstream] = field(default_factory=dict)
    """Cloud entries, then the models of peers as `peer/model`."""
    routes: Mapping[str, Route] = field(default_factory=dict)
    linked: bool = False
    """The GPUs are connected by NVLink."""
    max_temperatures: Mapping[str, int] = field(default_factory=dict)
    """Degrees Celsius at which a device is paced; devices without a limit are left out."""

    @property
    def broken(self) -> int:
        """How many of the models cannot be loaded as the registry names them."""
        return sum(model.problem is not None for model in self.models.values())

    def with_models(self, models: Mapping[str, LocalModel], warnings: Sequence[str] = ()) -> Registry:
        """The same registry with other values for its models, and more to warn of."""
        return replace(self, models=MappingProxyType(dict(models)), warnings=(*self.warnings, *warnings))

    def say(self, model: str, reason: str) -> str:
        """A line about a model, with its place in the file."""
        return f"{self.places.get(model, f'{self.path}: models.{model}')}: {reason}"


def load(path: Path, devices: Sequence[Device], cache: Path) -> Registry:
    """
    Read the registry file and the headers of its models' files.

    `devices`: what was detected. `cache`: `{cache: file}` looks in its `models` folder.
    Raises RegistryInvalid.
    """
    return _Load(path, _parsed(path), devices, cache).registry()


def load_text(path: Path) -> Registry:
    """
    Read the registry file alone, and no other: models have no size, and devices are taken to be there.

    Raises RegistryInvalid.
    """
    return _Load(path, _parsed(path), None, None).registry()


def _parsed(path: Path) -> Document:
    try:
        return document.parse(_read(path), schema.WORDS)
    except DocumentInvalid as error:
        raise _invalid(path, error.problems) from error


def _read(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            kind = "a directory" if path.is_dir() else "not a regular file"
            raise _unreadable(f"this is {kind}; a registry is a YAML file")
        with path.open("rb") as file:
            return file.read(document.MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise _unreadable("there is no such file") from error
    except (OSError, ValueError) as error:
        raise _unreadable(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _unreadable(reason: str) -> DocumentInvalid:
    return DocumentInvalid([Problem(Position(1, 1), (), reason)])


def _invalid(path: Path, problems: Sequence[Problem]) -> RegistryInvalid:
    lines = [problem.line(str(path)) for problem in document.in_order(problems)]
    more = [f"{path}: and {len(lines) - MAX_PROBLEMS} more problems"] if len(lines) > MAX_PROBLEMS else []
    return RegistryInvalid(lines[:MAX_PROBLEMS] + more)


class _Load:
    """One reading of one file: collects problems and warnings on the way."""

    def __init__(
        self, path: Path, text: Document, devices: Sequence[Device] | None, cache: Path | None
    ) -> None:
        """Without `devices` they are assumed, without `cache` no model's file is looked at."""
        self._path = path
        self._text = text
        self._devices = devices
        self._cache = cache
        self._problems: list[Problem] = [*text.problems, *names.problems(text)]
        self._warnings: list[Problem] = []
        self._at_fault: dict[str, Problem] = {}
        """Model -> how its file and the text disagree."""

    def registry(self) -> Registry:
        written = self._written()
        share = self._memory(written)
        limits = limits_of(written.limits)
        self._problems += names.limits(self._text, limits)
        aliases = beyond.aliases(written)
        models = {
            name: self._model(name, model, written.defaults or schema.Engine(), share, aliases)
            for name, model in written.models.items()
        }
        upstreams = beyond.upstreams(written, self._path.parent)
        routes = beyond.routes(written, aliases, upstreams)
        self._check_beyond(written, models, routes, upstreams)
        models = self._good_enough(written, models, routes)
        if self._problems:
            raise _invalid(self._path, [*self._problems, *self._at_fault.values()])
        return Registry(
            path=self._path,
            models=MappingProxyType(models),
            aliases=MappingProxyType(aliases),
            budgets=share.budgets,
            linked=share.linked,
            max_temperatures=share.max_temperatures,
            keys=tuple(_key(key) for key in written.keys or ()),
            limits=limits,
            warnings=tuple(w.line(str(self._path)) for w in document.in_order(self._warnings)),
            places={name: self._place(name) for name in models},
            written={name: as_written(model, written.defaults) for name, model in written.models.items()},
            upstreams=MappingProxyType(upstreams),
            routes=MappingProxyType(routes),
        )

    def _written(self) -> schema.RegistryFile:
        """The validated file, without the entries at fault, so that the others can still be looked at."""
        value = dict(self._text.value)
        found = self._validate(value)
        if isinstance(found, schema.RegistryFile):
            return found
        self._problems += found
        faulty = {p.path[:2] for p in (*found, *self._text.problems) if len(p.path) > 1}
        for section in ("models", "cloud", "peers", "routes"):
            if isinstance(entries := value.get(section), dict):
                sound = {name: entry for name, entry in entries.items() if (section, name) not in faulty}
                value[section] = sound
                if not sound and section != "models":
                    del value[section]
        again = self._validate(value)
        if isinstance(again, schema.RegistryFile):
            return again
        raise _invalid(self._path, self._problems)

    def _validate(self, value: Mapping[str, object]) -> schema.RegistryFile | list[Problem]:
        try:
            return schema.RegistryFile.model_validate(value)
        except ValidationError as error:
            return explain.problems(self._text, error)

    def _memory(self, written: schema.RegistryFile) -> Memory:
        path: KeyPath = ("devices", *(written.devices or ()))
        try:
            found = memory.assumed(written.devices) if self._devices is None else self._devices
            chosen = memory.choose(found, written.devices)
        except ValueError as error:
            self._problem(path, str(error))
            raise _invalid(self._path, self._problems) from error
        for warning in chosen.warnings:
            self._warn(path, warning)
        return chosen

    def _check_beyond(
        self,
        written: schema.RegistryFile,
        models: Mapping[str, LocalModel],
        routes: Mapping[str, Route],
        upstreams: Mapping[str, Upstream],
    ) -> None:
        """What may leave this machine, and whether candidates are good enough for their route."""
        for said in (*beyond.problems(written), *trust.problems(models, routes, upstreams)):
            self._problem(*said)
        for said in (
            *beyond.warnings(written, self._path.parent),
            *trust.warnings(models, routes, upstreams),
        ):
            self._warn(*said)
        for name, route in (written.routes or {}).items():
            local = [models[c] for c in routes[name].candidates if c in models]
            for reason in quality.warnings(local, route.quality):
                self._warn(("routes", name, "quality"), reason)

    def _good_enough(
        self, written: schema.RegistryFile, models: Mapping[str, LocalModel], routes: Mapping[str, Route]
    ) -> dict[str, LocalModel]:
        """The models; one whose file is too coarse for a route that demands more is marked."""
        sound = dict(models)
        for name, route in (written.routes or {}).items():
            local = [sound[c] for c in routes[name].candidates if c in sound]
            for model, reason in quality.demanded(local, route.min_quant):
                if model.problem is None:
                    self._disagrees(model.name, ("routes", name, "min_quant"), reason)
                    sound[model.name] = msgspec.structs.replace(model, problem=reason)
        return sound

    def _model(
        self,
        name: str,
        model: schema.Model,
        defaults: schema.Engine,
        share: Memory,
        aliases: Mapping[str, str],
    ) -> LocalModel:
        file = self._file(model.path)
        if file.problem:
            self._warn(("models", name, "path"), file.problem)
        card = gguf.card(file.header) if file.header else ModelCard()
        said = Said(model, defaults)
        engine = self._engine(said, card)
        problem = file.problem or self._too_long(name, model.context, card)
        engine, placements = self._placed(name, said, engine, file, share)
        if reason := quality.warning(card.quantization, model.quality):
            self._warn(("models", name, "quality"), reason)
        return LocalModel(
            name=name,
            path=str(file.path),
            placements=placements,
            engine=engine,
            file=file.identity,
            card=card,
            aliases=tuple(model.aliases or ()),
            pinned=bool(model.pinned),
            preload=bool(model.preload),
            ttl=said.ttl(),
            priority=model.priority or 0,
            params=params(defaults.params, model.params),
            sha256=model.sha256.lower() if model.sha256 else None,
            cloud=model.cloud or "never",
            fallback=tuple(aliases.get(other, other) for other in model.fallback or ()),
            spill=beyond.spill(model.spill, model.cloud == "spill"),
            problem=problem,
        )

    def _file(self, path: str | schema.CachedFile | schema.PackagedFile) -> files.ModelFile:
        if self._cache is None:
            return files.ModelFile(Path())
        return files.find(path, self._path.parent, self._cache)

    def _too_long(self, name: str, asked: int | None, card: ModelCard) -> str | None:
        """Why the file cannot have the context that its entry asks for."""
        own = card.context_train
        if asked is None or not own or asked <= own:
            return None
        reason = f"the model was made for {own} tokens at most, got {asked}"
        self._disagrees(name, ("models", name, "context"), reason)
        return reason

    def _engine(self, said: Said, card: ModelCard) -> EngineOptions:
        own = card.context_train or 0
        asked = said.model.context
        default = said.defaults.context or DEFAULT_CONTEXT
        chosen = said.chosen("slots", "kv_type", "flash_attention", "ubatch")
        context = asked or (min(default, own) if own else default)
        return msgspec.structs.replace(EngineOptions(context=context), **chosen)

    def _placed(
        self, name: str, said: Said, engine: EngineOptions, file: files.ModelFile, share: Memory
    ) -> tuple[EngineOptions, tuple[Placement, ...]]:
        """What the registry means by `gpu_layers`, and by the formula the ways to hold the model."""
        layers = said.chosen("gpu_layers").get("gpu_layers", "auto")
        if isinstance(layers, int) and layers > 0 and not share.has_gpu:
            self._warn(("models", name), "gpu_layers has no effect: there is no GPU among the devices")
        engine = msgspec.structs.replace(engine, gpu_layers=meant(layers))
        if file.header is None:
            nowhere = msgspec.structs.replace(engine, gpu_layers=0)
            return engine, (Placement(nowhere, {next(iter(share.budgets)): Footprint()}),)
        size = functools.partial(estimate.footprints, file.header)
        blocks = file.header.number("block_count")
        return engine, placement.settle(placement.plan(engine, blocks, share.budgets, share.linked), size)

    def _place(self, name: str) -> str:
        path: KeyPath = ("models", name)
        position = self._text.key(*path)
        if (fault := self._at_fault.get(name)) is not None:
            position, path = fault.position, fault.path
        return f"{self._path}:{position.line}:{position.column}: {document.dotted(path)}"

    def _disagrees(self, model: str, path: KeyPath, reason: str) -> None:
        """A file that is not what the text asks of it breaks its own model, and is told of where the text stands."""
        self._at_fault[model] = Problem(self._text.at(*path), path, reason)
        self._warn(path, reason)

    def _problem(self, path: KeyPath, reason: str) -> None:
        self._problems.append(Problem(self._text.at(*path), path, reason))

    def _warn(self, path: KeyPath, reason: str) -> None:
        self._warnings.append(Problem(self._text.at(*path), path, reason))


def _key(key: schema.Key) -> Key:
    return Key(key.name, key.sha256.lower(), tuple(dict.fromkeys(key.models)), key.cloud, key.rpm)
