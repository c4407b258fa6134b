"""The app behind a real listener, as bootstrap runs it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import uvicorn

from router.api import connection
from tests.scene import Scene


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


@contextlib.asynccontextmanager
async def served(house: Scene, **limits: Any) -> AsyncIterator[str]:
    """The URL. `limits` are those of a Connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        chosen = connection.config(house.app, **limits)
        chosen.lifespan = "off"  # the scene owns what outlives requests
        server = _Server(chosen)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve([listener]), name="server")
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
