"""
The table of routes, and the app around it.

The one rule: every path that the gateway answers is in TABLE; nothing else is served.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from router.api import admin, embeddings, listing, openai, openapi, operations
from router.api.errors import NoSuchPath, WrongMethod
from router.api.exchange import COST, FACTS
from router.api.house import House, Record
from router.api.middleware import BodyLimit, Guard, Outermost, record_of

__all__ = ["TABLE", "House", "Row", "build"]

Handler = Callable[[Request, House, Record], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Row:
    """`counted` is the `route` label in router_route_requests_total; rows without one are not counted."""

    path: str
    methods: Mapping[str, Handler]
    counted: str | None = None


async def description(request: Request, house: House, record: Record) -> Response:
    """What this table serves, in OpenAPI's words."""
    return openapi.response({row.path: row.methods for row in TABLE})


def _look(handler: Handler) -> dict[str, Handler]:
    """What can be read can be asked about: HEAD wherever there is GET."""
    return {"GET": handler, "HEAD": handler}


# First match wins: `/models/{id:path}` comes after what lies under `/models/`.
TABLE: tuple[Row, ...] = (
    Row("/v1/chat/completions", {"POST": openai.chat}, "chat"),
    Row("/chat/completions", {"POST": openai.chat}, "chat"),
    Row("/v1/completions", {"POST": openai.completions}, "completions"),
    Row("/completions", {"POST": openai.completions}, "completions"),
    Row("/v1/embeddings", {"POST": embeddings.embeddings}, "embeddings"),
    Row("/embeddings", {"POST": embeddings.embeddings}, "embeddings"),
    Row("/v1/models", _look(listing.models)),
    Row("/v1/models/{id:path}", _look(listing.model)),
    Row("/models", _look(listing.models)),
    Row("/models/load", {"POST": operations.load}),
    Row("/models/unload", {"POST": operations.unload}),
    Row("/models/sse", _look(operations.changes)),
    Row("/models/{id:path}", _look(listing.model)),
    Row("/props", _look(operations.props)),
    Row("/running", _look(operations.running)),
    Row("/unload", {**_look(operations.unload_all), "POST": operations.unload_all}),
    Row("/admin/reload", {"POST": admin.reload}),
    Row("/", _look(operations.root)),
    Row("/health", _look(operations.readyz)),
    Row("/livez", _look(operations.livez)),
    Row("/readyz", _look(operations.readyz)),
    Row("/metrics", _look(operations.metrics)),
    Row("/openapi.json", _look(description)),
)


def build(house: House) -> ASGIApp:
    """The ASGI app. Its lifespan owns the work that outlives requests."""

    @contextlib.asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        async with house.background.open():
            yield

    routes = [Route(row.path, endpoint=_Endpoint(row, house)) for row in TABLE]
    router = Router(routes, redirect_slashes=False, default=_nowhere, lifespan=lifespan)
    limited = BodyLimit(router, house.settings.max_body, house.settings.max_bodies)
    counted = {row.path: row.counted for row in TABLE if row.counted}
    return _cross_origin(Outermost(Guard(limited, house), house, counted), house.settings.cors_origins)


def _cross_origin(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    """Around everything, so that a page can read errors too. Nothing is sent where no page is allowed."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "HEAD", "POST"),
        allow_headers=("*",),
        allow_private_network=True,
        expose_headers=("retry-after", "x-request-id", "x-should-retry", *FACTS, COST),
    )


class _Endpoint:
    """One row as an ASGI app. Errors go up to Outermost, which answers all of them alike."""

    def __init__(self, row: Row, house: House) -> None:
        self._row = row
        self._house = house

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._row.methods.get(scope["method"])
        if handler is None:
            raise WrongMethod(scope["method"][:20], scope["path"][:200], tuple(self._row.methods))
        response = await handler(Request(scope, receive), self._house, record_of(scope))
        if scope["method"] == "HEAD":
            response = _Head(response)
        await response(scope, receive, send)


class _Head(Response):
    """The status line and the headers of a response whose body is never made: of a stream it would have no end."""

    def __init__(self, response: Response) -> None:
        self.status_code = response.status_code
        self.raw_headers = response.raw_headers
        self.body = b""
        self.background = None


async def _nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        raise NoSuchPath(f"Nothing is served at {scope['path'][:200]}.")
