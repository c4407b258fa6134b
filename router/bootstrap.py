"""
The composition root: builds every room, wires them, owns the task group.

The one rule: this is the only file that knows every room, and it decides nothing by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import uvicorn

from router.api import connection, origins
from router.api.app import House, build
from router.cloud.client import Cloud
from router.domain.errors import RegistryInvalid, RouterError
from router.registry import loader
from router.registry.catalog import Catalog
from router.registry.loader import Registry
from router.registry.refine import Refiner
from router.residency.core import Residency
from router.residency.manager import ResidencyManager
from router.routing.dispatch import Dispatcher
from router.routing.journey import Journeys
from router.routing.peers import Peers
from router.runtime import heat
from router.runtime.launcher import ProcessLauncher, usable
from router.runtime.spares import Spares
from router.runtime.weighing import Weighing
from router.settings import MANY_CORES, Settings, cores
from router.sizing import devices
from router.sizing.devices import Device
from router.sizing.ledger import Ledger
from router.sizing.meter import Meter
from router.sizing.thermals import Thermals
from router.supervisor import contained, restarted
from router.telemetry import Metrics, logger

log = logger("bootstrap")

FAILED_SECONDS = 1.0
"""After an error of its own the gateway answers for so long that it has failed, before it closes its port."""


class CannotServe(RouterError):
    """The gateway cannot start as it was asked to; the message says what to do."""


class GatewayFailed(RouterError):
    """It ended because of an error of its own; whoever started it should start it again."""


class _Server(uvicorn.Server):
    """Signals are ours: uvicorn would close the listener at once and then wait for ever."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(settings: Settings, ready: Callable[[Registry, str], None] | None = None) -> None:
    """`serve`, on an event loop of its own. Whatever else ends it is GatewayFailed, too."""
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(serve(settings, ready))
    except RouterError:
        raise
    except Exception as error:
        log.critical("the gateway broke", exc_info=True)
        raise GatewayFailed(f"the gateway broke: {error}") from error


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop where it is installed: a relayed token costs less processor time on it, and gaps are more even."""
    try:
        import uvloop
    except ImportError:  # not made for every system
        return asyncio.new_event_loop
    return uvloop.new_event_loop


async def serve(settings: Settings, ready: Callable[[Registry, str], None] | None = None) -> None:
    """
    Run the gateway until SIGTERM or SIGINT. `ready` is called once with the registry and the URL.

    Raises RegistryInvalid or CannotServe before anything is served, GatewayFailed after an error of its own.
    """
    ends = Ends()
    with ends.reloads():
        failure = await _prepare(settings, ends, ready)
    if failure:
        raise GatewayFailed(failure)


async def _prepare(
    settings: Settings, ends: Ends, ready: Callable[[Registry, str], None] | None
) -> str | None:
    check_origins(settings)
    metrics = Metrics()
    metrics.on_scrape(lambda: metrics.tasks.set(len(asyncio.all_tasks())))
    listener = listen(settings.host, settings.port)
    with contextlib.closing(listener):
        beside = cores() >= MANY_CORES
        async with Spares(
            settings.spares, backend=settings.backend, sandbox=settings.sandbox, beside=beside
        ) as spares:
            launcher = ProcessLauncher(spares, metrics, backend=settings.backend)
            return await _run(settings, ends, metrics, launcher, spares, listener, ready)


async def _run(
    settings: Settings,
    ends: Ends,
    metrics: Metrics,
    launcher: ProcessLauncher,
    spares: Spares,
    listener: socket.socket,
    ready: Callable[[Registry, str], None] | None,
) -> str | None:
    """Why it ended, unless it was asked to."""
    found = await _devices(launcher)
    ledger = Ledger(settings.cache / "footprints.json")
    meter = launcher.devices = Meter(found)
    weighing = Weighing(launcher, meter, ledger)
    applied: list[Callable[[Registry], None]] = []

    def apply(registry: Registry) -> None:
        for room in applied:
            room(registry)

    load = functools.partial(loader.load, devices=found, cache=settings.cache)
    catalog = _catalog(settings.registry, load, Refiner(launcher, ledger), apply, metrics)
    registry = await catalog.start()
    check_open(settings, registry)
    async with contextlib.AsyncExitStack() as stack:
        core = Residency(registry.budgets, registry.limits)
        residency = await stack.enter_async_context(ResidencyManager(core, weighing, metrics))
        cloud = await stack.enter_async_context(Cloud(settings.state / "spend.db", metrics))
        launcher.dry_runs.report_to(residency.dry_runs_hold)
        stack.callback(launcher.dry_runs.report_to, lambda held: None)
        applied.append(lambda new: residency.reconcile(new.models, new.budgets, new.limits))
        applied.append(lambda new: cloud.reconcile(new.upstreams))
        apply(registry)
        dispatcher = Dispatcher(residency, metrics, reread=catalog.reread)
        peers = Peers(cloud.models, lambda: catalog.current.upstreams.values())
        journeys = Journeys(cloud, metrics, residency)
        house = House(settings, catalog, residency, dispatcher, metrics, cloud, journeys, peers)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        hot = heat.Pacing(lambda: catalog.current.max_temperatures, residency.device_paced)
        for name, watch in {
            "weighing": lambda: weighing.watch(lambda: spares.pids, residency.device_free),
            "heat": lambda: heat.watch(Thermals(found), metrics, hot),
        }.items():
            stack.callback(tasks.create_task(restarted(watch, name), name=name).cancel)
        announce = functools.partial(ready, registry, _url(listener)) if ready else lambda: None
        return await _serve_http(settings, house, listener, ends, announce)


def _catalog(
    path: Path,
    load: Callable[[Path], Registry],
    refiner: Refiner,
    apply: Callable[[Registry], None],
    metrics: Metrics,
) -> Catalog:
    """The registry's catalog, with its outcomes counted."""
    catalog = Catalog(
        path, load, refiner.refine, apply, lambda outcome, _: metrics.registry_reloads.labels(outcome).inc()
    )
    metrics.on_scrape(lambda: metrics.broken_models.set(catalog.current.broken))
    return catalog


async def _devices(launcher: ProcessLauncher) -> tuple[Device, ...]:
    """Where models can be; dry runs learn which GPU is meant by which name."""
    there = devices.detect()
    launcher.dry_runs.see({device.name: device.uuid for device in there if device.uuid})
    return await usable(launcher, there)


async def _serve_http(
    settings: Settings, house: House, listener: socket.socket, ends: Ends, ready: Callable[[], None]
) -> str | None:
    """Until a signal asks for the end. Why it ended, if not by that."""
    server = _Server(connection.config(build(house), most=connection.room()))
    failed = house.residency.failed
    with ends.installed():
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(server.serve([listener]), name="http")
            tasks.create_task(contained(_announce(server, serving, ready), "announce"), name="announce")
            ending = tasks.create_task(ends.asked.wait(), name="signals")
            failing = tasks.create_task(failed.wait(), name="fail-stop")
            watching = [
                tasks.create_task(restarted(watch, name), name=name)
                for name, watch in _watches(house, ends).items()
            ]
            await asyncio.wait({serving, ending, failing}, return_when=asyncio.FIRST_COMPLETED)
            by_itself = serving.done()
            for task in (ending, failing, *watching):
                task.cancel()
            if failed.is_set():
                await asyncio.sleep(FAILED_SECONDS)
            await _drain(house, ends, 0.0 if failed.is_set() else settings.drain_seconds)
            server.should_exit = True
            server.force_exit = ends.at_once.is_set()
    log.info("stopped")
    if failed.is_set():
        return "residency broke: see the log"
    return "the HTTP server ended by itself: see the log" if by_itself else None


def _watches(house: House, ends: Ends) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
    """What looks for changes as long as requests are served."""
    return {
        "registry-watch": house.catalog.watch,
        "peers-watch": house.peers.watch,
        "reloads": lambda: _reload_when_asked(house.catalog, ends.reload),
    }


async def _reload_when_asked(catalog: Catalog, asked: asyncio.Event) -> None:
    """What SIGHUP does: as if the file had just been saved."""
    while True:
        await asked.wait()
        asked.clear()
        log.info("SIGHUP: reading the registry again")
        try:
            registry = await catalog.reload()
        except RegistryInvalid:
            continue  # the catalog has logged every problem
        log.info("SIGHUP: the registry that is served is the file's", models=len(registry.models))


async def _announce(server: uvicorn.Server, serving: asyncio.Task[None], ready: Callable[[], None]) -> None:
    while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.02)
    if server.started:
        spare_the_collector()
        ready()


def spare_the_collector() -> None:
    """
    Modules, schema and tables live as long as the process: looking through them again and again for garbage
    would stop the loop for 20 to 50 ms each time (G20).
    """
    gc.collect()
    gc.freeze()


async def _drain(house: House, ends: Ends, seconds: float) -> None:
    """The listener stays open: health says 503, new requests are refused, running ones run on."""
    async with asyncio.TaskGroup() as tasks:
        drained = tasks.create_task(_shut_down(house, seconds), name="drain")
        hurry = tasks.create_task(ends.at_once.wait(), name="second-signal")
        await asyncio.wait({drained, hurry}, return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()
        hurry.cancel()


async def _shut_down(house: House, seconds: float) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(house.residency.shut_down(seconds), name="drain-workers")
        tasks.create_task(house.journeys.shut_down(seconds), name="drain-relays")


class Ends:
    """
    The first SIGTERM or SIGINT asks for an orderly end, the second for an immediate one; SIGHUP for a reload.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()
        self.reload = asyncio.Event()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    @contextlib.contextmanager
    def reloads(self) -> Iterator[None]:
        """From before the start, when one is kept for later, to after the end, when it means nothing any more."""
        loop = asyncio.get_running_loop()
        # Not the loop's own way: removing that brings back, for a moment, the signal that ends the process.
        signal.signal(signal.SIGHUP, lambda *_: loop.call_soon_threadsafe(self.reload.set))
        try:
            yield
        finally:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _signalled(self) -> None:
        if self.asked.is_set():
            self.at_once.set()
        else:
            self.asked.set()
            log.info("stopping: requests in flight run on; a second signal stops at once")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises CannotServe when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named, or asyncio leaves Nagle's algorithm on: each token would wait 40 ms for an
    # acknowledgement of the one before.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        connection.bound(listener)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise CannotServe(_cannot_listen(host, port, error)) from error
    listener.setblocking(False)
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use: stop what listens there, or choose another with --port"
    return f"cannot listen on {host} port {port}: {error.strerror or error}"


def check_open(settings: Settings, registry: Registry) -> None:
    """Without keys the gateway serves this machine only, unless the operator says otherwise."""
    if registry.keys or settings.allow_open or settings.loopback:
        return
    raise CannotServe(
        f"{settings.host} is not a loopback address and the registry has no keys: "
        "add `keys:` to the registry, or pass --allow-open if everyone who reaches the port may use it"
    )


def check_origins(settings: Settings) -> None:
    """Raises CannotServe for what no browser would ever send: the operator would wonder why it is refused."""
    for origin in settings.cors_origins:
        if found := origins.problem(origin):
            raise CannotServe(f"--cors-origin {found}")


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
