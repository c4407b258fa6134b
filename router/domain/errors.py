"""
The error tree. Errors carry facts; `api.errors` alone knows their HTTP status.

* RouterError
  x InvalidRequest       the caller's fault
    + UnknownModel
    + ContextOverflow
    + Unsupported        not by a local model; another candidate may be able to
  x Unavailable          a good request, not now
    + QueueFull
    + LeaseTimeout
    + DoesNotFit         never: no retry helps
    + DoesNotFitNow      other processes have the memory, and may give it back
    + LoadFailed
      x ModelRefused       by the engine: no memory and no retry helps
    + WorkerCrashed
      - WorkerStopped    by the gateway, not by a fault
    + ShuttingDown
  x ModelBusy            an operator's unload of what clients wait for
  x UpstreamError        the cloud said no
    + UpstreamRefused      its own 4xx: the request is at fault, no candidate helps
    + UpstreamUnavailable  not now; the next candidate may be tried
    + OverBudget           the money is spent; the next candidate may be tried
    + SpendUnknown         spending cannot be recorded, so nothing is spent; the next candidate may be tried
    + UpstreamBroken       in the middle of its answer
    + PolicyRefused        the request may not leave this machine
  x RegistryInvalid      the operator's fault
"""

from __future__ import annotations

from collections.abc import Sequence


class RouterError(Exception):
    """Base class of every error this package raises on purpose."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(RouterError):
    """
    The request can never be served as it is. `param` is the JSON field at fault.

    `names_model`: the message names a model or an upstream as the registry does, which not every client may read.
    """

    def __init__(self, message: str, param: str | None = None, *, names_model: bool = False) -> None:
        super().__init__(message)
        self.param = param
        self.names_model = names_model


class UnknownModel(InvalidRequest):
    """No model or alias has this name. `close` holds the nearest names, best first."""

    def __init__(self, name: str, close: Sequence[str] = ()) -> None:
        hint = f" Did you mean {', '.join(repr(c) for c in close)}?" if close else ""
        super().__init__(f"The model {name!r} does not exist.{hint}", param="model")
        self.name = name
        self.close = tuple(close)


class ContextOverflow(InvalidRequest):
    """
    The prompt does not fit the context of one slot. Counts are tokens.

    `param` is the JSON field of the prompt: messages, prompt, input, or one of several such as `input[2]`;
    `most` what a prompt may have: of one that is to be answered, one less than the context.
    """

    def __init__(
        self, context: int, prompt_tokens: int, param: str = "messages", most: int | None = None
    ) -> None:
        # Agents match these very words to decide whether to shorten and try again.
        told = "your messages" if param == "messages" else f"'{param}'"
        super().__init__(
            f"This model's maximum context length is {context} tokens. "
            f"However, {told} resulted in {prompt_tokens} tokens."
            + (f" At most {most} fit: one is left for the answer." if most == context - 1 else ""),
            param=param,
        )
        self.context = context
        self.prompt_tokens = prompt_tokens
        self.most = context if most is None else most


class Unsupported(InvalidRequest):
    """A good request, but local models cannot do it (yet): an upstream may."""


class Unavailable(RouterError):
    """The request was good; the house could not serve it now. `retry_after` in seconds, or None."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFull(Unavailable):
    """Too many requests wait already."""


class LeaseTimeout(Unavailable):
    """The model did not become ready within the time that the request may wait."""


class DoesNotFit(Unavailable):
    """The model can never fit the budget beside what is pinned. Retrying is pointless."""


class DoesNotFitNow(Unavailable):
    """It would fit the budget, but other processes, or ones that were killed and do not end, hold the memory."""


class LoadFailed(Unavailable):
    """
    The model's process did not become ready, or failed too often to be tried again now.

    `out_of_memory`: the device had not enough, whatever was reserved; tried again once with idle models gone.
    """

    def __init__(
        self, message: str, retry_after: float | None = None, *, out_of_memory: bool = False
    ) -> None:
        super().__init__(message, retry_after)
        self.out_of_memory = out_of_memory


class ModelRefused(LoadFailed):
    """The engine does not run this file with these options: true until one of the three changes."""


class Unloaded(LoadFailed):
    """An operator sent the model away, and those who waited for it."""


class WorkerCrashed(Unavailable):
    """
    The process that was serving the request is gone.

    `repeatable` False: it was found hung over this very request, which would hang the next one, too.
    """

    def __init__(self, message: str, retry_after: float | None = None, *, repeatable: bool = True) -> None:
        super().__init__(message, retry_after)
        self.repeatable = repeatable


class WorkerStopped(WorkerCrashed):
    """The gateway stopped the process that was serving the request: it gave way, or its time to drain was over."""


class ShuttingDown(Unavailable):
    """The gateway is stopping and takes no new work."""


class ModelBusy(RouterError):
    """An operator's unload of a model that `waiting` requests wait for: it would be loaded again for them at once."""

    def __init__(self, name: str, waiting: int) -> None:
        requests = "1 request waits" if waiting == 1 else f"{waiting} requests wait"
        super().__init__(
            f"{requests} for the model {name!r}; with force it is unloaded and they are refused."
        )
        self.waiting = waiting


class UpstreamError(RouterError):
    """Something about an upstream; `upstream` is its name in the registry, `message` never holds a key."""

    tries = 1
    """How often it was asked."""

    def __init__(self, message: str, upstream: str) -> None:
        super().__init__(message)
        self.upstream = upstream


class UpstreamRefused(UpstreamError):
    """
    The upstream found fault with the request: its own `status` (4xx) and what its error says.

    Never 401, 402, 403 or 404: those are about the operator's key and model, and UpstreamUnavailable here.
    """

    def __init__(
        self, message: str, upstream: str, status: int, type: str, code: str | None, param: str | None
    ) -> None:
        super().__init__(message, upstream)
        self.status = status
        self.type = type
        self.code = code
        self.param = param


class UpstreamUnavailable(UpstreamError):
    """
    No answer was begun. `retry_after` in seconds, or None.

    `reason` is one of a fixed list, for metrics: connect | tls | address | key | setup (it refuses our key, knows no
    such model, redirects) | timeout | cut | status (5xx) | rate_limited | protocol | too_large |
    too_long (it goes on above its limit of tokens) | busy | open.
    """

    def __init__(self, message: str, upstream: str, reason: str, retry_after: float | None = None) -> None:
        super().__init__(message, upstream)
        self.reason = reason
        self.retry_after = retry_after


class OverBudget(UpstreamError):
    """The request's worst case does not fit what is left. `retry_after`: seconds until the `window` (day, month) ends."""

    def __init__(self, message: str, upstream: str, window: str, retry_after: float) -> None:
        super().__init__(message, upstream)
        self.window = window
        self.retry_after = retry_after


class SpendUnknown(UpstreamError):
    """The record of spending cannot be written or read, so nothing may be spent."""


class UpstreamBroken(UpstreamError):
    """The answer broke off after its first byte."""


class PolicyRefused(UpstreamError):
    """`cloud: never`, enforced at the one place where bytes leave."""


class RegistryInvalid(RouterError):
    """The registry cannot take effect. `problems` holds one `file:line:column: path: reason` each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
