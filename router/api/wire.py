"""
Strict JSON: bytes -> typed values, or an InvalidRequest that says which field is wrong and why.

The one rule: a body is parsed once, here, and what goes on is only what was understood.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from router.domain.errors import InvalidRequest
from router.domain.generation import SamplingParams
from router.domain.models import SamplingDefaults

MAX_STOPS = 16
MAX_BIASES = 1024
_BIAS_BYTES = 64
"""Of one bias, with room for spaces."""
MAX_TOKEN = 2**31 - 1
ENDLESS = -1
"""Of `n_predict`: as many tokens as there is room for."""

_HIGH, _LOW = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_LONE = (re.compile(_HIGH + rb"(?!" + _LOW + rb")"), re.compile(_LOW + rb"(?<!" + _HIGH + _LOW + rb")"))
"""Two that each begin with letters: one with an "or" takes ten times as long over megabytes."""

_MOST_ESCAPES = 50_000
"""More are not looked through for a better message: the loop must not stall."""

T = TypeVar("T")
encode = msgspec.json.Encoder().encode
UNREADABLE = (RecursionError, UnicodeDecodeError, msgspec.DecodeError)
"""What decoding raises. Fields that are skipped or left as bytes are not looked into before, not even for UTF-8."""


_NOTHING = msgspec.Raw(b"null")


def nothing() -> msgspec.Raw:
    """A field that is not there, always the same. What is rare is left as bytes: decoding it may cost a lot."""
    return _NOTHING


class ModelName:
    """A type of its own only so that the decoder calls us for each `model` key, also for a second one."""

    def __init__(self, value: object) -> None:
        self.value = value


class Body(msgspec.Struct, kw_only=True):
    """What every POST body has. Unknown fields are ignored: clients send many."""

    model: ModelName | None = None
    provider: msgspec.Raw = msgspec.field(default_factory=nothing)
    metadata: msgspec.Raw = msgspec.field(default_factory=nothing)

    def model_name(self) -> str:
        if self.model is None:
            raise InvalidRequest("You must say which model: the field 'model' is missing.", "model")
        if not isinstance(self.model.value, str) or not self.model.value:
            raise InvalidRequest("'model' must be a string that is not empty.", "model")
        return self.model.value


class UnloadBody(Body, kw_only=True):
    force: bool | None = None
    """Also what clients wait for; they are refused."""


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class SamplingBody(Body, kw_only=True):
    """The fields that chat and completions share: OpenAI's, and llama.cpp's extras."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    repetition_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n_predict: int | None = None
    stop: str | list[str] | None = None
    logit_bias: msgspec.Raw = msgspec.field(default_factory=nothing)
    ignore_eos: bool | None = None
    cache_prompt: bool | None = None
    reasoning_effort: msgspec.Raw = msgspec.field(default_factory=nothing)

    def wants_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


def decode(body: bytes, kind: type[T]) -> T:
    """The body as a `kind`. Raises InvalidRequest for anything that is not strict JSON of that shape."""
    names = 0

    def hook(wanted: type, value: object) -> object:
        nonlocal names
        names += 1
        if names > 1:
            raise InvalidRequest("The body names 'model' more than once.", "model")
        return ModelName(value)

    try:
        return msgspec.json.decode(body, type=kind, dec_hook=hook)
    except msgspec.ValidationError as error:
        raise _wrong_shape(str(error)) from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.") from None
    except UnicodeDecodeError:
        raise InvalidRequest("The body is not valid UTF-8.") from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {_reason(body, str(error))}.") from None


def document(body: bytes) -> dict[str, Any]:
    """All of a body that `decode` took, for whoever understands more of it than we do."""
    try:
        found: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
    except UNREADABLE as error:
        raise InvalidRequest(f"The body cannot be passed on: {error}.") from None
    return found


def decode_field(field: msgspec.Raw, kind: type[T], name: str) -> T:
    """A field that was left as bytes. Raises InvalidRequest."""
    try:
        return msgspec.json.decode(field, type=kind)
    except msgspec.ValidationError as error:
        raise _wrong_shape(f"{error}", name) from None
    except UNREADABLE:
        half = lone_surrogate(bytes(field))
        raise InvalidRequest(f"'{name}' is not valid JSON{half and f': {half}'}.", name) from None


def given(field: msgspec.Raw) -> bool:
    """False for null and for what is empty."""
    return bytes(field).strip() not in (b"null", b"false", b"[]", b"{}", b'""')


def _reason(body: bytes, reason: str) -> str:
    if not body.strip():
        return "it is empty"
    if half := lone_surrogate(body):
        return half
    return reason.removeprefix("JSON is malformed: ").rstrip(".")


def lone_surrogate(body: bytes) -> str:
    """What to say of half a character in JSON that does not decode, else "": msgspec calls it cut off."""
    if body.count(rb"\u") > _MOST_ESCAPES:
        return ""
    escapes = body.replace(rb"\\", b"  ")  # an escaped backslash begins no escape
    for half in _LONE:
        if found := half.search(escapes):
            return f"{found[0].decode()} is a lone surrogate, which is no character"
    return ""


def _wrong_shape(message: str, field: str = "") -> InvalidRequest:
    # msgspec says "Expected `int | null`, got `str` - at `$.max_tokens`".
    text, _, place = message.partition(" - at `")
    path = field + place.rstrip("`").removeprefix("$")
    path = path.removeprefix(".")
    param = re.sub(r"\[\.\.\.\]", "", path)[:100] or None
    plain = text.replace("`", "").replace(" | null", "")
    plain = plain[:1].lower() + plain[1:]
    return InvalidRequest(f"'{param}': {plain}." if param else f"The body: {plain}.", param)


# Sampling --------------------------------------------------------------------------------------------------

_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 5),
    "top_p": (0, 1),
    "top_k": (-1, MAX_TOKEN),
    "min_p": (0, 1),
    "repeat_penalty": (0.01, 10),
    "repetition_penalty": (0.01, 10),
    "repeat_last_n": (-1, 65536),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "seed": (-(2**63), 2**63 - 1),
    "max_tokens": (1, 2**63 - 1),
    "max_completion_tokens": (1, 2**63 - 1),
    "n_predict": (1, 2**63 - 1),
}
_UNBOUNDED = {"n_predict": ENDLESS}


def sampling(body: SamplingBody, defaults: SamplingDefaults) -> SamplingParams:
    """The request's values over the model's `params` over our own defaults. Raises InvalidRequest."""
    for name, (least, most) in _RANGES.items():
        value = getattr(body, name)
        if value is not None and value != _UNBOUNDED.get(name) and not least <= value <= most:
            raise InvalidRequest(f"'{name}' must be between {least} and {most}, not {_short(value)}.", name)
    said: dict[str, Any] = {n: v for n, v in msgspec.structs.asdict(defaults).items() if v is not None}
    _override(said, "repeat_penalty", body.repetition_penalty)
    for name in ("temperature", "top_p", "min_p", "repeat_penalty", "repeat_last_n", "presence_penalty"):
        _override(said, name, getattr(body, name))
    _override(said, "frequency_penalty", body.frequency_penalty)
    _override(said, "top_k", None if body.top_k is None else max(0, body.top_k))
    if body.n_predict is not None:
        said["max_tokens"] = None if body.n_predict == ENDLESS else body.n_predict
    _override(said, "max_tokens", body.max_tokens)
    _override(said, "max_tokens", body.max_completion_tokens)
    _override(said, "stop", _stops(body.stop))
    _override(said, "logit_bias", _biases(body.logit_bias))
    _override(said, "ignore_eos", body.ignore_eos)
    if body.seed is not None:
        # llama.cpp's samplers take 32 bits, and -1 is its word for "any".
        said["seed"] = None if body.seed == -1 else body.seed % 2**32
    if said.get("max_tokens") is not None:
        said["max_tokens"] = min(said["max_tokens"], MAX_TOKEN)
    return SamplingParams(**said)


def check_tokens(tokens: Sequence[int], param: str) -> tuple[int, ...]:
    """Token ids as they go to a worker. Raises InvalidRequest."""
    if not tokens:
        raise InvalidRequest(f"'{param}' must not be an empty list.", param)
    if min(tokens) < 0 or max(tokens) > MAX_TOKEN:
        raise InvalidRequest(f"'{param}' holds a number that is no token id.", param)
    return tuple(tokens)


def _override(said: dict[str, Any], name: str, value: object) -> None:
    if value is not None:
        said[name] = value


def _stops(stop: str | list[str] | None) -> tuple[str, ...] | None:
    if stop is None:
        return None
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if len(stops) > MAX_STOPS:
        raise InvalidRequest(f"'stop' may hold {MAX_STOPS} strings, not {len(stops)}.", "stop")
    if any(len(s) > 1024 for s in stops):
        raise InvalidRequest("A string of 'stop' may have 1024 characters.", "stop")
    return tuple(s for s in stops if s)  # clients send [""] and mean none


def _biases(raw: msgspec.Raw) -> tuple[tuple[int, float], ...] | None:
    if not given(raw):
        return None
    if len(bytes(raw)) > MAX_BIASES * _BIAS_BYTES:
        raise InvalidRequest(f"'logit_bias' may hold {MAX_BIASES} tokens.", "logit_bias")
    biases = decode_field(raw, dict[str, float], "logit_bias")
    if len(biases) > MAX_BIASES:
        raise InvalidRequest(f"'logit_bias' may hold {MAX_BIASES} tokens, not {len(biases)}.", "logit_bias")
    return tuple((_token_id(token), _bias(bias)) for token, bias in biases.items())


def _token_id(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > MAX_TOKEN:
        raise InvalidRequest(f"'logit_bias': {text[:20]!r} is not a token id.", "logit_bias")
    return int(text)


def _bias(value: float) -> float:
    if not -100 <= value <= 100:
        raise InvalidRequest(
            f"'logit_bias': a bias must be between -100 and 100, not {_short(value)}.", "logit_bias"
        )
    return value


def _short(value: float) -> str:
    # A Python int of thousands of digits cannot even be printed.
    return f"{float(value):g}" if abs(value) < 1e300 else "that"
