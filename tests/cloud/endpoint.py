"""
A scripted OpenAI-compatible endpoint: an ASGI app for a real uvicorn on loopback, that remembers all it was sent.

`Endpoint.answer` is how it behaves now; the functions below are the ways it can.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme
import uvicorn

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
Answer = Callable[["Seen", Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.raw or b"{}")
        return found


def chunk(model: str, delta: Message, finish: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]}
    return event({**body, **more})


def event(payload: object) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def usage_chunk(model: str, prompt: int, completion: int) -> bytes:
    return event(
        {
            "id": "x",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": model,
            "choices": [],
            "usage": usage_of(prompt, completion),
        }
    )


def usage_of(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def good(
    words: Sequence[str] = ("Hel", "lo"), *, pause: float = 0.0, prompt: int = 10, bill: bool = True
) -> Answer:
    """An answer in `words`, a token each, `pause` seconds before each; `bill`: it tells its usage."""

    async def answer(seen: Seen, send: Send) -> None:
        model = seen.body.get("model", "none")
        if not seen.body.get("stream"):
            await asyncio.sleep(pause * len(words))
            usage = usage_of(prompt, len(words)) if bill else None
            await whole(send, _whole_body(seen, model, words, usage))
            return
        await start_stream(send)
        for word in words:
            await asyncio.sleep(pause)
            await more(send, chunk(model, {"content": word}))
        await more(send, chunk(model, {}, "stop"))
        if bill and seen.body.get("stream_options", {}).get("include_usage"):
            await more(send, usage_chunk(model, prompt, len(words)))
        await end(send, b"data: [DONE]\n\n")

    return answer


def _whole_body(seen: Seen, model: str, words: Sequence[str], usage: object) -> Message:
    if seen.path.endswith("/embeddings"):
        data = [{"object": "embedding", "index": 0, "embedding": [1.0, 0.0]}]
        return {"object": "list", "data": data, "model": model, "usage": usage}
    if seen.path.endswith("/models"):
        return {"object": "list", "data": [{"id": "m", "status": {"value": "loaded"}, "aliases": ["also-m"]}]}
    message = {"role": "assistant", "content": "".join(words)}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": choices,
        "usage": usage,
    }


def status(code: int, body: object = None, **headers: str) -> Answer:
    async def answer(seen: Seen, send: Send) -> None:
        await whole(
            send,
            body or {"error": {"message": "scripted", "type": "t", "code": "c", "param": None}},
            code,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        )

    return answer


def raw_stream(*parts: bytes, then: str = "end") -> Answer:
    """A stream of exactly these bytes; `then`: end (properly), cut (the connection), or silence."""

    async def answer(seen: Seen, send: Send) -> None:
        await start_stream(send)
        for part in parts:
            await more(send, part)
        if then == "silence":
            await asyncio.sleep(3600)
        if then == "cut":
            raise ConnectionAbortedError("scripted")
        await end(send)

    return answer


async def silence(seen: Seen, send: Send) -> None:
    """Takes the request and never says a word."""
    await asyncio.sleep(3600)


async def hang_up(seen: Seen, send: Send) -> None:
    """Closes the connection in place of an answer: uvicorn by itself would still say 500."""
    send.__self__.transport.abort()  # type: ignore[attr-defined]


def in_turn(*answers: Answer) -> Answer:
    """One after the other; the last one stays."""
    left = list(answers)

    async def answer(seen: Seen, send: Send) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(seen, send)

    return answer


async def whole(send: Send, body: object, code: int = 200, **headers: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    await _start(
        send, code, {"content-type": "application/json", "content-length": str(len(content)), **headers}
    )
    await end(send, content)


async def start_stream(send: Send) -> None:
    await _start(send, 200, {"content-type": "text/event-stream"})


async def _start(send: Send, code: int, headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": code, "headers": raw})


async def more(send: Send, part: bytes) -> None:
    await send({"type": "http.response.body", "body": part, "more_body": True})


async def end(send: Send, part: bytes = b"") -> None:
    await send({"type": "http.response.body", "body": part, "more_body": False})


@dataclass
class Endpoint:
    answer: Answer = field(default_factory=good)
    seen: list[Seen] = field(default_factory=list)
    left: int = 0
    """Requests whose client hung up before the answer was complete."""
    url: str = ""
    """Up to and with /v1, once it serves."""

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        seen = Seen(scope["method"], scope["path"], headers, await _read(receive))
        self.seen.append(seen)
        async with asyncio.TaskGroup() as tasks:
            answering = tasks.create_task(_settled(self.answer(seen, send)), name="answer")
            leaving = tasks.create_task(_disconnected(receive), name="leaving")
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            self.left += not answering.done()
            answering.cancel()
            leaving.cancel()
        if not answering.cancelled() and (error := answering.result()):
            raise error


async def _settled(work: Any) -> Exception | None:
    try:
        await work
    except Exception as error:
        return error
    return None


async def _read(receive: Callable[[], Awaitable[Message]]) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def _disconnected(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


@contextlib.asynccontextmanager
async def serving(
    endpoint: Endpoint, tls: trustme.CA | None = None, name: str = "localhost"
) -> AsyncIterator[Endpoint]:
    """Serve on loopback, on the running loop. With `tls` the certificate is `name`'s and that authority's."""
    config = uvicorn.Config(
        endpoint, log_config=None, access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=0
    )
    config.load()
    if tls is not None:
        config.ssl = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.issue_cert(name).configure_cert(config.ssl)
    server = _Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        port = listener.getsockname()[1]
        endpoint.url = f"https://{name}:{port}/v1" if tls else f"http://127.0.0.1:{port}/v1"
        async with asyncio.TaskGroup() as tasks:
            serve = tasks.create_task(server.serve([listener]), name="endpoint")
            while not server.started:
                await asyncio.sleep(0.005)
            try:
                yield endpoint
            finally:
                server.should_exit = True
                await asyncio.wait({serve})


def authority(folder: Path) -> tuple[trustme.CA, str]:
    """A certificate authority of our own, and the file by which it is trusted."""
    found = trustme.CA()
    file = folder / "ca.pem"
    found.cert_pem.write_to_path(str(file))
    return found, str(file)
