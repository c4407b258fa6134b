"""
The shell around the core: events in, actions carried out, leases handed over.

The one rule: from an event to the last of its actions nothing awaits, so that no coroutine can see the house
half-changed; and nothing is decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import itertools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import assert_never

from router.domain.errors import LoadFailed, ShuttingDown, WorkerCrashed
from router.domain.memory import Bytes
from router.domain.models import Limits, LocalModel, together
from router.domain.news import Freed, News, Progress, Stuck
from router.residency import events
from router.residency.core import Residency
from router.residency.estimate import expected_wait
from router.residency.feed import Feed, StatusChange
from router.residency.history import History
from router.residency.orders import Orders
from router.residency.report import Report
from router.residency.state import StartReason
from router.residency.view import HouseView, Status, WorkerView, describe_wait, house_view
from router.residency.workers import Launcher, Lease, Worker
from router.telemetry import Metrics, logger

__all__ = ["Launcher", "Lease", "ResidencyManager", "Worker"]

log = logger("residency")


@dataclass(slots=True)
class _Life:
    """What the shell keeps of one instance."""

    order: events.StartWorker
    started: float
    task: asyncio.Task[None]
    over: asyncio.Event
    """Its process is gone, or nobody can end it."""
    worker: Worker | None = None
    ready: float | None = None
    progress: float = 0.0
    told_to_stop: bool = False
    cause: str = "it ended without a word"
    out_of_memory: bool = False


class ResidencyManager:
    """Enter it before use. `clock` gives seconds and never goes back."""

    def __init__(
        self,
        core: Residency,
        launcher: Launcher,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._core = core
        self._launcher = launcher
        self._clock = clock
        self._report = Report(metrics, core.tables)
        self._feed = Feed(self._statuses)
        self._lives: dict[str, _Life] = {}
        self._grants: dict[int, asyncio.Future[str]] = {}
        self._tickets = itertools.count(1)
        self._tasks = asyncio.TaskGroup()
        self._alarm: asyncio.TimerHandle | None = None
        self._orders = Orders(
            core.tables,
            clock,
            self._post,
            lambda model: self._lease(model, None, "operator"),
            self._feed.stir,
        )
        self._history = History()
        self.failed = asyncio.Event()
        """Deciding itself broke. Nothing is decided any more: whoever runs the gateway has to end it."""

    async def __aenter__(self) -> ResidencyManager:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._post(events.ShutdownRequested(self._clock()))
        for life in self._lives.values():
            life.task.cancel()
        await self._tasks.__aexit__(None, None, None)
        if self._alarm is not None:
            self._alarm.cancel()
        self._feed.close()

    # What others ask --------------------------------------------------------------------------------------

    def lease(
        self, model: LocalModel, wait: float | None = None, priority: int | None = None
    ) -> contextlib.AbstractAsyncContextManager[Lease]:
        """
        One slot of `model`, for as long as the context is open; it is loaded if it has to be.

        `wait`: the most seconds to wait; None = the registry's `max_wait`. `priority`: None = the model's.
        Raises the kinds of Unavailable.
        """
        return self._lease(model, wait, "request", priority)

    async def load(self, model: LocalModel) -> None:
        """An operator's load: returns when the model is ready. Raises the kinds of Unavailable."""
        await self._orders.load(model)

    def unload(self, name: str | None, force: bool = False) -> int:
        """An operator's unload; None = all. Busy ones finish first. Returns how many were told to go."""
        return self._orders.unload(name, force)

    def spilled(self, model: LocalModel, waited: bool = False) -> None:
        """
        Another candidate is asked in place of `model`: it is loaded for the next ones if that costs nobody anything.

        `waited`: the request had a lease of `model` refused, or was granted none in time.
        """
        self._post(events.RequestSpilled(self._clock(), model, waited))

    def expected_wait(self, model: LocalModel) -> float:
        """Seconds until a request for `model` that came now would have its lease: an estimate."""
        return expected_wait(self._core.tables, model, self._clock(), self._progress()).seconds

    def describe_wait(self, model: LocalModel) -> str:
        """What the newest request for `model` waits for, for people: the text of an SSE comment."""
        return describe_wait(self._core.tables, model, self._clock(), self._progress())

    def device_free(self, free_beside: Bytes) -> None:
        """What other processes leave of each device; said again whenever it changes."""
        now, before = self._clock(), self._core.tables.in_force
        self._post(events.DeviceFree(now, free_beside))
        self._report.strangers(before, self._core.tables)

    def dry_runs_hold(self, held: Bytes) -> None:
        """What dry-run processes hold of each device; said again whenever it changes."""
        self._post(events.DryRunsHold(self._clock(), held))

    def device_paced(self, shares: Mapping[str, float]) -> None:
        """How much of their slots models on a hot device may use; said again whenever it changes."""
        self._post(events.DevicePaced(self._clock(), shares))

    def reconcile(self, models: Mapping[str, LocalModel], budgets: Bytes, limits: Limits) -> None:
        """The whole registry as it is now; residency moves towards it."""
        self._orders.keep({model.fingerprint for model in models.values()})
        self._report.named(models)
        self._post(events.ModelsDesired(self._clock(), models, budgets, limits))

    def view(self) -> HouseView:
        workers = {name: _worker_view(life) for name, life in self._lives.items()}
        view = house_view(self._core.tables, self._clock(), workers)
        refused = self._orders.refused(view.fingerprints)
        return dataclasses.replace(view, failed={**refused, **view.failed})

    def changes(self) -> AsyncGenerator[StatusChange, None]:
        """Each change of a model's status or progress from now on; a slow reader gets the latest of each."""
        return self._feed.changes()

    def history(self) -> tuple[str, ...]:
        """The last events and actions, oldest first."""
        return self._history.lines()

    async def shut_down(self, drain: float) -> None:
        """Refuse who waits and who comes, let leases run for `drain` seconds, stop every worker."""
        self._post(events.ShutdownRequested(self._clock()))
        await self._wait_for_lives(drain)
        for life in self._lives.values():
            life.task.cancel()
        await self._wait_for_lives(None)

    async def _wait_for_lives(self, seconds: float | None) -> None:
        """Those that cannot be ended are not waited for."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for life in list(self._lives.values()):
                    await life.over.wait()

    # Leases -----------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _lease(
        self, model: LocalModel, wait: float | None, reason: StartReason, priority: int | None = None
    ) -> AsyncIterator[Lease]:
        if self.failed.is_set():
            raise _failed()
        ticket = next(self._tickets)
        asked = self._clock()
        deadline = None if wait is None else asked + wait
        grant = self._grants[ticket] = asyncio.get_running_loop().create_future()
        try:
            self._post(events.LeaseRequested(asked, ticket, model, deadline, reason, priority))
            yield self._handed_over(await grant, asked)
        finally:
            del self._grants[ticket]
            if grant.done() and not grant.cancelled():
                grant.exception()  # seen, even if we were cancelled in the tick of the refusal
            self._post(events.LeaseReleased(self._clock(), ticket))

    def _handed_over(self, instance: str, asked: float) -> Lease:
        life = self._lives.get(instance)
        if life is None or life.worker is None or life.ready is None:
            raise WorkerCrashed(f"The worker {instance} died before it was used.", 1.0)
        waited = self._clock() - asked
        loading = max(life.ready - max(asked, life.started), 0.0)
        self._report.granted(waited)
        return Lease(instance, life.worker, max(waited - loading, 0.0), loading)

    # From an event to its actions -------------------------------------------------------------------------

    def _post(self, event: events.Event) -> None:
        """Never raises: an error between an event and the last of its actions is fail-stop."""
        if self.failed.is_set():
            return
        self._history.note(event)
        try:
            actions = self._core.handle(event)
            self._history.note(*actions)
            for action in actions:
                self._carry_out(action)
        except Exception:
            self._fail_stop()
        self._feed.stir()

    def _fail_stop(self) -> None:
        """What is in memory and what the tables say may differ now: refuse all who wait, end all that runs."""
        log.critical("residency broke; the gateway stops. Its last events and actions follow", exc_info=True)
        self._history.log()
        self.failed.set()
        for grant in self._grants.values():
            if not grant.done():
                grant.set_exception(_failed())
        for life in self._lives.values():
            life.told_to_stop = True
            life.task.cancel()
        if self._alarm is not None:
            self._alarm.cancel()

    def _carry_out(self, action: events.Action) -> None:
        match action:
            case events.GrantLease(ticket, instance):
                # A waiter cancelled this very tick is about to send LeaseReleased anyway.
                grant = self._grants.get(ticket)
                if grant is not None and not grant.done():
                    grant.set_result(instance)
            case events.RefuseLease(ticket, error, reason, retry_after):
                self._report.refused(error.__name__, reason)
                # No future is open for a lease in use: there the worker's own streams tell of the crash.
                grant = self._grants.get(ticket)
                if grant is not None and not grant.done():
                    grant.set_exception(error(reason, retry_after))
            case events.StartWorker():
                self._start(action)
            case events.StopWorker(instance, why):
                life = self._lives[instance]
                self._report.stopping(instance, self._model(life), why, life.ready is not None)
                life.told_to_stop = True
                life.task.cancel()
            case events.WakeAt(at):
                self._set_alarm(at)
            case _:
                assert_never(action)

    def _start(self, order: events.StartWorker) -> None:
        self._report.starting(order.instance, order.model, order.reason)
        task = self._tasks.create_task(self._live(order.instance), name=f"life of {order.instance}")
        self._lives[order.instance] = _Life(order, self._clock(), task, asyncio.Event())
        # Not in a `finally`: a task that is cancelled before its first step never enters its body.
        task.add_done_callback(functools.partial(self._ended, order.instance))

    async def _live(self, instance: str) -> None:
        """One task per worker, from its first breath to its last. To stop a worker is to cancel it."""
        life = self._lives[instance]
        model, placement = life.order.model, life.order.placement
        tell = functools.partial(self._told, instance, life)
        try:
            async with self._launcher.launch(instance, model, placement, tell) as worker:
                self._came_up(instance, life, worker)
                await worker.wait_gone()
                self._went_down(instance, life, "its process ended")
        except LoadFailed as failure:
            life.cause, life.out_of_memory = failure.message, failure.out_of_memory
        except Exception as error:  # a launcher's bug may cost one worker, not the gateway
            log.exception("the launcher broke", instance=instance)
            life.cause = f"{type(error).__name__}: {error}"

    def _came_up(self, instance: str, life: _Life, worker: Worker) -> None:
        life.worker, life.ready = worker, self._clock()
        self._orders.came_up(life.order.model.fingerprint)
        resident = life.order.placement.charged(worker.resident)
        took = life.ready - life.started
        self._report.ready(instance, self._model(life), life.order.reason, resident, took)
        self._post(events.WorkerReady(life.ready, instance, worker.facts.slots, resident))

    def _went_down(self, instance: str, life: _Life, cause: str) -> None:
        """Said before the process is cleared away, so that nobody is handed a dead worker meanwhile."""
        life.worker, life.cause = None, cause
        self._post(events.WorkerLost(self._clock(), instance, cause))

    def _ended(self, instance: str, task: asyncio.Task[None]) -> None:
        life = self._lives.pop(instance)
        life.over.set()
        if not life.told_to_stop and not self._core.tables.shutting_down:
            self._report.died(instance, self._model(life), life.cause, life.ready is not None)
        self._post(events.WorkerExited(self._clock(), instance, life.cause, life.out_of_memory))

    def _told(self, instance: str, life: _Life, news: News) -> None:
        match news:
            case Progress(fraction):
                life.progress = min(max(fraction, 0.0), 1.0)
                self._feed.stir()
            case Freed(remaining):
                self._post(events.WorkerFreed(self._clock(), instance, remaining))
            case Stuck():
                life.over.set()
                self._report.stuck(instance, self._model(life))
                self._post(events.WorkerStuck(self._clock(), instance))
            case _:
                assert_never(news)

    def _set_alarm(self, at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        delay = max(0.0, at - self._clock())
        self._alarm = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._post(events.TimePassed(self._clock()))

    def _progress(self) -> dict[str, float]:
        return {name: life.progress for name, life in self._lives.items()}

    def _statuses(self) -> dict[str, tuple[Status, float]]:
        view = self.view()
        names = view.fingerprints.keys() | {name for i in view.instances for name in i.names}
        return {name: (view.status(name), view.progress(name)) for name in names}

    def _model(self, life: _Life) -> LocalModel:
        """As the registry has it now; what the worker was started with may have another name by then."""
        known = self._core.tables.instances.get(life.order.instance)
        return known.model if known is not None else life.order.model


def _failed() -> ShuttingDown:
    return ShuttingDown("The gateway stops after an error of its own; it may be back in a moment.", 5.0)


def _worker_view(life: _Life) -> WorkerView:
    if (worker := life.worker) is None:
        return WorkerView(progress=life.progress)
    measured = together(worker.resident.values())
    return WorkerView(life.progress, worker.pid, measured, worker.gauges, worker.sandbox)
