"""
A running gateway, seen from the command line: its models, and the operator's orders.

The one rule: it speaks the public HTTP endpoints and knows nothing of the house behind them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, TypeVar

import httpx2
import msgspec

from router.domain.errors import RouterError

DEFAULT_URL = "http://127.0.0.1:8080"
_TIMEOUT = httpx2.Timeout(10.0, connect=3.0)
_RELOAD_TIMEOUT = httpx2.Timeout(600.0, connect=3.0)
"""A reading may ask the engine about every model."""
_IDLE_LOOKS = 15
_FAILED_LOOKS = 3
"""A model is given up after so many looks in a row at which the gateway did nothing for it."""

T = TypeVar("T")


class GatewayUnreachable(RouterError):
    """Nothing answers at the address, or what answers is no router gateway."""


class GatewayRefused(RouterError):
    """The gateway answered with an error. `status` is the HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Status(msgspec.Struct, frozen=True):
    """`value` is unloaded, loading, loaded or failed; `error` says why it failed."""

    value: str = "unloaded"
    error: str | None = None


class Meta(msgspec.Struct, frozen=True):
    size: int | None = None
    """Bytes of the model's file."""


class ModelEntry(msgspec.Struct, frozen=True):
    """One entry of `GET /v1/models`, as far as the command line shows it."""

    id: str
    status: Status = Status()
    aliases: tuple[str, ...] = ()
    context_length: int | None = None
    meta: Meta = Meta()


class Instance(msgspec.Struct, frozen=True):
    """One process that holds a model. Bytes and seconds; what the gateway does not say is None."""

    model: str
    id: str = ""
    phase: str = "ready"
    """loading, ready, draining, stopping or quarantined."""
    progress: float = 0.0
    pid: int | None = None
    bytes: int | None = None
    slots: int | None = None
    leases: int | None = None
    expires_in: float | None = None
    names: tuple[str, ...] = ()
    """All names of the process, `model` among them."""


class Memory(msgspec.Struct, frozen=True):
    budget: int = 0
    used: int = 0
    reserved: int = 0
    quarantined: int = 0
    strangers: int = 0
    free: int = 0


class Running(msgspec.Struct, frozen=True):
    """The answer of `GET /running`."""

    running: tuple[Instance, ...]
    memory: Memory | None = None
    waiting: dict[str, int] = {}
    failed: dict[str, str] = {}


class Reloaded(msgspec.Struct, frozen=True):
    """The answer of `POST /admin/reload`: names of models; `broken` says why, `outcome` is applied or unchanged."""

    outcome: str = "applied"
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    broken: dict[str, str] = {}
    warnings: tuple[str, ...] = ()


class Progress(msgspec.Struct, frozen=True):
    """How far a load is: `stage` is waiting, loading or loaded; `fraction` from 0 to 1."""

    stage: str
    fraction: float = 0.0


class Client:
    """Every method raises GatewayUnreachable or GatewayRefused. `transport` is for tests."""

    def __init__(
        self, url: str, key: str | None = None, transport: httpx2.BaseTransport | None = None
    ) -> None:
        self.url = url.rstrip("/")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        with self._named_errors():
            # No proxy from the environment: the gateway is nearly always on loopback.
            self._http = httpx2.Client(
                base_url=self.url, headers=headers, timeout=_TIMEOUT, trust_env=False, transport=transport
            )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def models(self) -> Any:
        """The list of `GET /v1/models`, as it came."""
        answer = self._ask("GET", "/v1/models")
        if not isinstance(answer, dict) or "data" not in answer:
            raise self._no_gateway("its model list has no 'data'")
        return answer["data"]

    def running(self) -> Any:
        """The answer of `GET /running`, as it came."""
        return self._ask("GET", "/running")

    def unload(self, name: str | None, force: bool = False) -> None:
        """Unload one model, or all (None); busy ones finish what they do first. `force`: refuse who waits for them."""
        if name is None:
            self._request("GET", "/unload?force=true" if force else "/unload")
        else:
            self._ask("POST", "/models/unload", {"model": name, "force": True} if force else {"model": name})

    def reload(self, force: bool = False) -> Any:
        """Have the registry read again: what changed, as it came. `force`: also what makes things worse."""
        path = "/admin/reload?force=true" if force else "/admin/reload"
        return self._answered(self._request("POST", path, timeout=_RELOAD_TIMEOUT), f"POST {path}")

    def load(self, name: str, pause: Callable[[], None] = lambda: time.sleep(0.2)) -> Iterator[Progress]:
        """
        Order a load and yield how far it is, until it is loaded. `pause` is called between two looks.

        Whoever stops listening stops waiting only: the load goes on.
        """
        self._ask("POST", "/models/load", {"model": name})
        model = self._name_of(name)
        idle = 0
        while True:
            now = self.convert(self.running(), Running)
            progress = _progress(model, now)
            yield progress or Progress("waiting")
            if progress is not None and progress.stage == "loaded":
                return
            # The order is carried out behind the answer: one idle look proves nothing, several do.
            idle = 0 if progress else idle + 1
            if idle >= (_FAILED_LOOKS if model in now.failed else _IDLE_LOOKS):
                raise GatewayRefused(
                    now.failed.get(model, f"{model} was not loaded: see the gateway's log"), 503
                )
            pause()

    def _name_of(self, name: str) -> str:
        """The model behind a name or an alias."""
        for entry in self.convert(self.models(), list[ModelEntry]):
            if name in entry.aliases:
                return entry.id
        return name

    def convert(self, answer: Any, kind: type[T]) -> T:
        """An answer as typed values; unknown fields are ignored."""
        try:
            return msgspec.convert(answer, kind, strict=False)
        except msgspec.ValidationError as error:
            raise self._no_gateway(str(error)) from error

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        return self._answered(self._request(method, path, body), f"{method} {path}")

    def _answered(self, answer: httpx2.Response, asked: str) -> Any:
        try:
            return answer.json()
        except ValueError as error:
            raise self._no_gateway(f"{asked} is not answered in JSON") from error

    def _request(
        self, method: str, path: str, body: object = None, timeout: httpx2.Timeout = _TIMEOUT
    ) -> httpx2.Response:
        with self._named_errors():
            answer = self._http.request(method, path, json=body, timeout=timeout)
        if not answer.is_success:
            raise GatewayRefused(_error_message(answer, f"{method} {path}"), answer.status_code)
        return answer

    def _no_gateway(self, reason: str) -> GatewayUnreachable:
        return GatewayUnreachable(f"what answers at {self.url} is not a router gateway: {reason}")

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise GatewayUnreachable(f"{self.url!r} is no URL of a gateway: {error}") from error
        except httpx2.ConnectError as error:
            raise GatewayUnreachable(
                f"no gateway answers at {self.url}: start one with `router serve`, "
                "or name another with --url or ROUTER_URL"
            ) from error
        except httpx2.TransportError as error:
            raise GatewayUnreachable(f"{self.url} did not answer: {error or type(error).__name__}") from error


def _progress(model: str, now: Running) -> Progress | None:
    """How far a model is; None when the gateway does nothing for it."""
    own = [instance for instance in now.running if model in (instance.model, *instance.names)]
    for instance in own:
        if instance.phase in ("loading", "ready"):
            stage = "loaded" if instance.phase == "ready" else "loading"
            return Progress(stage, instance.progress)
    # While an older version of it drains, or others do, it is listed as waiting.
    return Progress("waiting") if own or model in now.waiting else None


def _error_message(answer: httpx2.Response, asked: str) -> str:
    """The message of an OpenAI-style error body, or what was asked and the status."""
    with contextlib.suppress(ValueError):
        match answer.json():
            case {"error": {"message": str(message)}} | {"error": str(message)}:
                return message
            case _:
                pass
    return f"{asked} is answered with {answer.status_code}"
