"""
What the handlers are handed: the rooms below, and the request's own record.

The one rule: names of models are looked up here and nowhere else, so that nobody walks around a key's limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from router.api.field_check import FieldCheck
from router.api.naming import Hidden, Names, renamed
from router.api.rates import Rates
from router.cloud.client import Cloud
from router.cloud.events import data_of
from router.domain.errors import PolicyRefused
from router.domain.models import LocalModel
from router.domain.upstreams import Upstream
from router.registry.catalog import Catalog
from router.registry.loader import Key
from router.residency.manager import ResidencyManager
from router.routing.dispatch import Dispatcher
from router.routing.journey import Journeys
from router.routing.peers import Peers
from router.routing.plan import Now, Plan, Wishes, plan
from router.routing.route import Candidate, Target, as_route, candidates, local, resolve
from router.settings import Settings
from router.supervisor import contained
from router.telemetry import Metrics

Finish = Literal["stop", "length", "error", "left"]


@dataclass(slots=True)
class Record:
    """One request, as the access log and the metrics will see it."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    model: str | None = None
    """What the registry calls whoever was asked for, and then whoever answers; never a client's word."""
    key: Key | None = None
    """Whose request it is; None when the registry has no keys, and anybody may ask for anything."""
    tenant: str = ""
    """Whose prompts may be told from being cached already (see `tenants`); one for all where there are no keys."""
    finish: Finish | None = None
    code: str | None = None
    """Of the error that it was answered with, as `param`."""
    param: str | None = None
    asked: str = ""
    """The name or alias by which it asked."""
    hidden: Hidden = field(default_factory=Hidden)
    """Names of whoever may answer that its key does not have, and what they are called in answers."""

    def may_use(self, target: Target) -> bool:
        if self.key is None or "*" in self.key.models:
            return True
        aliases = () if isinstance(target, Upstream) else target.aliases
        return not {target.name, *aliases}.isdisjoint(self.key.models)


class Background:
    """Owns the work that outlives its request, such as an operator's load. One piece of work per name."""

    def __init__(self) -> None:
        self._tasks: asyncio.TaskGroup | None = None
        self._running: dict[str, asyncio.Task[None]] = {}

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as self._tasks:
            yield
            for task in self._running.values():
                task.cancel()

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` unless something of this name runs already. What it raises is logged and ends only it."""
        if name in self._running:
            work.close()
            return
        if self._tasks is None:
            work.close()
            raise RuntimeError("background work before the app has started")
        task = self._running[name] = self._tasks.create_task(contained(work, name), name=name)
        task.add_done_callback(lambda _: self._running.pop(name))
        task.add_done_callback(lambda _: work.close())  # cancelled before its first step, it would complain


@dataclass(slots=True)
class House:
    settings: Settings
    catalog: Catalog
    residency: ResidencyManager
    dispatcher: Dispatcher
    metrics: Metrics
    cloud: Cloud
    journeys: Journeys
    peers: Peers
    background: Background = field(default_factory=Background)
    rates: Rates = field(default_factory=Rates)

    def target(self, name: str, record: Record) -> Target:
        """What `name` means. Raises UnknownModel; what the key may not use is not there."""
        target = resolve(self.catalog.current, name, self.names(record).knows)
        record.model, record.asked = target.name, name
        self._hide([target], record)
        return target

    def names(self, record: Record) -> Names:
        """What the request may know."""
        key = record.key
        operator = self.settings.loopback if key is None else "*" in key.models
        return Names(self.catalog.current, key, operator)

    def shown(self, name: str, record: Record) -> str:
        """Who answers, as the request may know: its own name, or what was asked for."""
        return self.names(record).of(name) or record.asked

    def served_by(self, instance: str, record: Record) -> str:
        """The same of a process (`name#number`)."""
        name, mark, number = instance.rpartition("#")
        return f"{self.shown(name, record)}#{number}" if mark else self.shown(instance, record)

    def relayed(self, answer: bytes, upstream: str, record: Record) -> bytes:
        """A whole answer of an upstream: untouched, unless its key does not have the name of who answers."""
        if self.names(record).of(upstream):
            return answer
        return renamed(answer, record.asked)

    def relayed_event(self, event: bytes, upstream: str, record: Record) -> bytes:
        """The same of one event of a stream."""
        data = None if self.names(record).of(upstream) else data_of(event)
        return event if data is None else b"data: " + renamed(data, record.asked) + b"\n\n"

    def _hide(self, found: Iterable[Target], record: Record) -> None:
        names = self.names(record)
        if names.all:
            return
        for target in found:
            if (shown := self.shown(target.name, record)) != target.name:
                record.hidden.add(target, shown)

    def model(self, name: str, record: Record) -> LocalModel:
        """For what only a local model can do. Raises InvalidRequest for any other target, too."""
        return local(self.target(name, record))

    def plan(self, name: str, wishes: Wishes, record: Record) -> Plan:
        """
        Who answers a request for `name`. Counts against the rate of its key.

        Raises RateLimited, and PolicyRefused when nobody is left who may answer.
        """
        self.rates.admit(record.key)
        target = self.target(name, record)
        if isinstance(target, LocalModel) and not target.fallback and not (wishes.accuracy or wishes.effort):
            return Plan(target.name, (target,))
        cloud = record.key is None or record.key.cloud
        now = Now(self.residency.expected_wait, self._resident)
        found = plan(self.catalog.current, target, wishes, now, cloud=cloud, may_use=record.may_use)
        self._hide(candidates(self.catalog.current, as_route(target)), record)
        self._hide(found.candidates, record)
        if not found.candidates:
            reasons = "; ".join(f"{skipped.name}: {skipped.reason}" for skipped in found.skipped)
            raise PolicyRefused(f"Nobody may answer this request for {found.name!r} ({reasons}).", found.name)
        return found

    def check_fields(self, fields: FieldCheck) -> None:
        """Before a local model is asked. Raises Unsupported; counts what is ignored since nobody knows it."""
        self.metrics.unknown_fields.labels(fields.endpoint).inc(fields.unknown)
        fields.refuse()

    def _resident(self, candidate: Candidate) -> bool:
        if isinstance(candidate, LocalModel):
            return self.residency.view().status(candidate.name) == "loaded"
        return self.peers.status(candidate) == "loaded"

    def targets(self, record: Record) -> Iterator[Target]:
        """What the request may ask for, in the registry's order: models, routes, upstreams."""
        registry, names = self.catalog.current, self.names(record)
        named: list[Target] = [*registry.models.values(), *registry.routes.values()]
        named += registry.upstreams.values()
        return (target for target in named if names.of(target.name))
