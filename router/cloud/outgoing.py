"""
What leaves this machine: a request written from literals and our own serialised body, and what it may cost at most.

The one rule: nothing is copied from a client's headers; of its body only what the api understood goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from router import __version__
from router.cloud.calls import CloudCall
from router.domain.errors import InvalidRequest
from router.domain.upstreams import Upstream

PART_TOKENS = 40_000
"""What an image, a sound or a file in a message is counted as: a URL says nothing of the tokens behind it."""
_LIMITS = ("max_tokens", "max_completion_tokens")
MOST_MICRO = 10**15
"""Of one request: a cost that the record could not hold would break the reservations of others, too."""
_CHOOSE = ("models", "fallbacks")
"""With these a client would choose who answers, past the operator (OpenRouter, LiteLLM)."""
_COST_MORE = ("plugins", "web_search_options", "prediction", "audio")
"""What is billed beside the tokens that we count, or at another price."""
_TOOLS = (None, "function", "custom")
"""Tools that the client runs; what an endpoint runs itself, a web search, it bills by the call."""
_TIERS = (None, "auto", "default", "flex")


class Outgoing(msgspec.Struct, frozen=True):
    """A request that is ready to be sent. Its repr shows neither the body nor the key."""

    method: Literal["GET", "POST"]
    path: str
    body: bytes
    stream: bool
    drops_usage: bool = False
    """We asked for the usage chunk, the client did not: it is not passed on."""
    worst: int = 0
    """Micro-dollars that it may cost at most."""
    limit: int | None = None
    """Tokens that all its answers may have together; None where nobody said."""
    answers: int = 1
    """How many answers it gets."""
    echoed: int = 0
    """Bytes of prompts that come back in front of them, at most."""
    tenant: str = ""
    """Of this gateway's client, for a peer."""

    def __repr__(self) -> str:
        return f"Outgoing({self.method} {self.path}, {len(self.body)} bytes, stream={self.stream})"


def compose(upstream: Upstream, call: CloudCall) -> Outgoing:
    """The request as it goes to `upstream`. Raises InvalidRequest where its worst case cannot be told."""
    _refuse_wider(upstream, call.body)
    body = {**call.body, "model": upstream.model}
    limit = _limit(upstream, call, body)
    drops_usage = _set_stream(call, body)
    written = msgspec.json.encode(body)
    worst = 0
    if upstream.price is not None:
        prompt = call.prompt_tokens_bound
        if prompt is None:
            prompt = prompt_bound(written, body)
        worst = upstream.cost(prompt * _prompts_sent(body), limit * _generated(body))
        if worst > MOST_MICRO:
            raise InvalidRequest("The request could cost more than can be reckoned with.", "max_tokens")
    ready = Outgoing("POST", call.path, written, call.stream, drops_usage, worst, tenant=call.tenant)
    binds = upstream.price is not None or call.max_tokens is not None
    return _expecting(ready, body, limit if binds else None)


def _expecting(request: Outgoing, body: Mapping[str, Any], limit: int | None) -> Outgoing:
    """With what its answers are held to: `limit` tokens each, None = a limit that nobody sends binds nobody."""
    if request.path == "embeddings":
        return request
    try:
        answers, generated = _count(body, "n") * _prompts(body), _generated(body)
    except InvalidRequest:  # of an upstream without a price: it says so itself
        return request
    echoed = len(request.body) * answers if body.get("echo") else 0
    most = None if limit is None else limit * generated
    return msgspec.structs.replace(request, limit=most, answers=answers, echoed=echoed)


LIST_MODELS = Outgoing("GET", "models", b"", stream=False)


def headers(
    host: str, key: str | None, stream: bool, peer: bool = False, tenant: str = ""
) -> list[tuple[str, str]]:
    """
    All headers of a request but its length. A peer answers by itself, else two could ask each other for ever, and
    keeps apart what it caches of our clients, of whom it sees one key.
    """
    written = [
        ("host", host),
        ("user-agent", f"router/{__version__}"),
        ("accept", "text/event-stream" if stream else "application/json"),
        # A packed answer could unpack to any size.
        ("accept-encoding", "identity"),
        ("content-type", "application/json"),
    ]
    if peer:
        written.append(("x-router-local-only", "true"))
        if tenant:
            written.append(("x-router-tenant", tenant))
    return [*written, ("authorization", f"Bearer {key}")] if key else written


def prompt_bound(written: bytes, body: Mapping[str, Any]) -> int:
    """Tokens of the prompt at most: a token has at least one byte, and the JSON around a message outweighs a template."""
    return len(written) + PART_TOKENS * _parts(body.get("messages"))


def _set_stream(call: CloudCall, body: dict[str, Any]) -> bool:
    """True when we ask for a usage chunk that the client did not ask for."""
    options = body.pop("stream_options", None)
    body.pop("stream", None)
    if not call.stream:
        return False
    options = dict(options) if isinstance(options, Mapping) else {}
    asked = options.get("include_usage") is True
    body["stream"] = True
    body["stream_options"] = {**options, "include_usage": True}
    return not asked


def _refuse_wider(upstream: Upstream, body: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for what would widen the operator's choice of model, or of price."""
    for name in _CHOOSE if upstream.price is None else _CHOOSE + _COST_MORE:
        if body.get(name):
            words = f"'{name}' may not be sent to {upstream.name}: the operator chose it."
            raise InvalidRequest(words, name, names_model=True)
    if upstream.price is None:
        return
    if body.get("service_tier") not in _TIERS:
        words = f"'service_tier' at {upstream.name} may be auto, default or flex."
        raise InvalidRequest(words, "service_tier", names_model=True)
    tools = body.get("tools")
    if isinstance(tools, list) and any(isinstance(t, Mapping) and t.get("type") not in _TOOLS for t in tools):
        words = f"'tools' at {upstream.name} may be functions only."
        raise InvalidRequest(words, "tools", names_model=True)


def _limit(upstream: Upstream, call: CloudCall, body: dict[str, Any]) -> int:
    """Tokens of one answer at most. At a priced upstream the limit is sent along, or the worst case would be none."""
    if call.path == "embeddings":
        return 0
    limit = upstream.max_tokens if call.max_tokens is None else call.max_tokens
    if upstream.price is not None:
        said = [name for name in _LIMITS if body.pop(name, None) is not None]
        body[said[-1] if said else upstream.max_tokens_field] = limit
    return limit


def _generated(body: Mapping[str, Any]) -> int:
    """Answers that are generated, whether they are all sent or the best of them."""
    return _prompts_sent(body) * _prompts(body)


def _prompts(body: Mapping[str, Any]) -> int:
    prompt = body.get("prompt")
    several = isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)
    return len(prompt) if several and isinstance(prompt, list) else 1


def _prompts_sent(body: Mapping[str, Any]) -> int:
    """`n` and `best_of`: some endpoints bill the prompt for each."""
    return max(_count(body, "n"), _count(body, "best_of"))


def _count(body: Mapping[str, Any], name: str) -> int:
    value = body.get(name)
    if value is None:
        return 1
    if type(value) is not int or not 1 <= value <= 128:
        raise InvalidRequest(f"'{name}' must be a number from 1 to 128.", name)
    return value


def _parts(messages: object) -> int:
    """Content parts that are no text."""
    if not isinstance(messages, list):
        return 0
    contents = [message.get("content") for message in messages if isinstance(message, Mapping)]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return sum(1 for part in parts if isinstance(part, Mapping) and part.get("type") != "text")
