"""
What residency tells operators: counters, gauges and log lines.

The one rule: label values come from the registry; what leaves the registry leaves the metrics.
"""

from __future__ import annotations

from collections.abc import Iterable

from router.domain.memory import Bytes
from router.domain.models import LocalModel
from router.residency.state import Instance, Phase, StartReason, StopReason, Tables
from router.residency.view import device_views
from router.telemetry import Metrics, logger, observing

log = logger("residency")


class Report:
    """Reads `tables`, never writes them. What it tells of decisions is `observing`: it never raises."""

    def __init__(self, metrics: Metrics, tables: Tables) -> None:
        self._metrics = metrics
        self._tables = tables
        self._named: set[str] = set()
        metrics.on_scrape(self.refresh)

    def named(self, names: Iterable[str]) -> None:
        """What the registry names: to be forgotten when it is gone, even if nobody scraped meanwhile."""
        self._named.update(names)

    # Decisions --------------------------------------------------------------------------------------------

    @observing
    def starting(self, instance: str, model: LocalModel, reason: StartReason) -> None:
        reserved = self._tables.instances[instance].reserved
        log.info("loading", model=model.name, instance=instance, reason=reason, reserved=dict(reserved))

    @observing
    def ready(
        self, instance: str, model: LocalModel, reason: StartReason, resident: Bytes, took: float
    ) -> None:
        self._metrics.swaps.labels(model.name, reason).inc()
        log.info(
            "ready", model=model.name, instance=instance, resident=dict(resident), seconds=round(took, 3)
        )

    @observing
    def stopping(self, instance: str, model: LocalModel, reason: StopReason, was_ready: bool) -> None:
        if was_ready or reason == "abandoned":
            self._metrics.evictions.labels(model.name, reason).inc()
        log.info("unloading", model=model.name, instance=instance, reason=reason)

    @observing
    def died(self, instance: str, model: LocalModel, cause: str, was_ready: bool) -> None:
        self._metrics.worker_restarts.labels(model.name).inc()
        if was_ready:
            self._metrics.evictions.labels(model.name, "crashed").inc()
        what = "worker died" if was_ready else "load failed"
        log.warning(what, model=model.name, instance=instance, cause=cause)

    @observing
    def stuck(self, instance: str, model: LocalModel) -> None:
        held = dict(self._tables.instances[instance].reserved)
        log.error(
            "killed and not reaped; its memory is quarantined", model=model.name, instance=instance, held=held
        )

    @observing
    def strangers(self, before: Bytes, tables: Tables) -> None:
        """Said when what other processes take begins or ends to limit what models may hold."""
        now = tables.in_force
        for device, budget in tables.budgets.items():
            if (now[device] < budget) != (before.get(device, budget) < budget):
                log.warning(
                    "other processes limit the budget", device=device, budget=budget, left=now[device]
                )

    @observing
    def granted(self, waited: float) -> None:
        self._metrics.queue_wait.observe(waited)

    @observing
    def refused(self, error: str, reason: str) -> None:
        # Overload refuses many times a second: the access log and the counters tell of it, not this line.
        log.debug("refused", error=error, reason=reason)

    # Gauges -----------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Bring every gauge up to date; called when metrics are scraped."""
        self._forget_the_gone()
        self._device_gauges()
        waiting: dict[str, int] = {}
        for waiter in self._tables.waiting.values():
            waiting[waiter.model.name] = waiting.get(waiter.model.name, 0) + 1
        for name, model in self._tables.desired.items():
            fingerprint = model.fingerprint
            here = [
                i for i in self._tables.instances.values() if name in i.names or i.fingerprint == fingerprint
            ]
            self._model_gauges(model, here, waiting.get(name, 0))

    def _device_gauges(self) -> None:
        for device, memory in device_views(self._tables).items():
            self._metrics.device_pace.labels(device).set(self._tables.shares.get(device, 1.0))
            for kind, figure in memory.kinds().items():
                self._metrics.device_bytes.labels(device, kind).set(figure)

    def _model_gauges(self, model: LocalModel, here: list[Instance], waiting: int) -> None:
        metrics, name = self._metrics, model.name
        resident = [i for i in here if i.phase in (Phase.READY, Phase.DRAINING)]
        metrics.model_loaded.labels(name).set(1 if resident else 0)
        metrics.slots_busy.labels(name).set(sum(len(i.leases) for i in resident))
        metrics.waiting.labels(name).set(waiting)
        self._byte_gauges(name, model)

    def _byte_gauges(self, name: str, model: LocalModel) -> None:
        metrics, way, estimated = self._metrics, model.placements[0], model.footprint.total
        metrics.model_bytes.labels(name, "estimated").set(estimated)
        known = self._tables.measured.get((model.fingerprint, way.engine)) or (way.measured and way.bytes)
        if measured := sum((known or {}).values()):
            metrics.model_bytes.labels(name, "measured").set(measured)
            metrics.model_bytes_error.labels(name).set(estimated / measured - 1)
        else:
            metrics.model_bytes.remove(name, "measured")
            metrics.model_bytes_error.remove(name)

    def _forget_the_gone(self) -> None:
        named = set(self._tables.desired)
        alive = {name for i in self._tables.instances.values() for name in i.names}
        for name in self._named - named - alive:
            self._metrics.forget(name)
        self._named = (self._named & alive) | named
