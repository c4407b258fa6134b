"""
What one request may know: the names that its key has, and whether it is told reasons.

The one rule: a name that the key does not have is in no answer; what is not its own is not there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import msgspec

from router.domain.upstreams import Upstream
from router.registry.loader import Key, Registry
from router.residency.view import InstanceView
from router.routing.route import Target

UNTOLD = "It cannot be loaded now; the operator's log says why."
"""In place of a reason, which may name files of this machine."""

_Object = dict[str, msgspec.Raw]


@dataclass(frozen=True, slots=True)
class Names:
    """`key` None: the registry has no keys. `operator`: reasons are told, too."""

    registry: Registry
    key: Key | None
    operator: bool

    @property
    def all(self) -> bool:
        return self.key is None or "*" in self.key.models

    def knows(self, said: str) -> bool:
        """Whether this name or alias may be used: a key that has a name has its aliases, but not the other way."""
        if self.key is None or self.all:
            return True
        return said in self.key.models or self.registry.aliases.get(said) in self.key.models

    def of(self, name: str) -> str | None:
        """The name under which the key knows what the registry calls `name`; None = not at all."""
        if self.key is None or self.all or name in self.key.models:
            return name
        return next((said for said in self.key.models if self.registry.aliases.get(said) == name), None)

    def of_instance(self, instance: InstanceView) -> list[str]:
        """The names under which the key knows a process, which models with equal files and options share."""
        return list(dict.fromkeys(known for name in instance.names if (known := self.of(name))))

    def reason(self, reason: str | None) -> str | None:
        """Why a model failed, if it did."""
        return UNTOLD if reason is not None and not self.operator else reason


@dataclass(frozen=True, slots=True)
class Hidden:
    """Names that a request may not read -> what it reads in their place."""

    ours: dict[str, str] = field(default_factory=dict)
    """Names of the registry: our own messages have them, letter by letter."""
    theirs: dict[str, str] = field(default_factory=dict)
    """What upstreams call their models, and write in their own way: in capitals, with a version or a variant."""

    def add(self, target: Target, shown: str) -> None:
        self.ours[target.name] = shown
        if isinstance(target, Upstream):
            self.theirs[target.model] = shown
            # Who is asked for `vendor/model` may name it without the vendor.
            self.theirs[target.model.rpartition("/")[2] or target.model] = shown


NOTHING = Hidden()


def without(hidden: Hidden, text: str) -> str:
    """`text` with other words for the names in `hidden`."""
    patterns = [(name, re.escape(name), shown, 0) for name, shown in hidden.ours.items()]
    patterns += [(name, _written(name), shown, re.IGNORECASE) for name, shown in hidden.theirs.items()]
    for _, pattern, shown, flags in sorted(patterns, key=lambda found: len(found[0]), reverse=True):
        text = re.sub(rf"(?<!\w){pattern}(?!\w)", lambda _, shown=shown: shown, text, flags=flags)  # type: ignore[misc]
    return text


def _written(name: str) -> str:
    """A pattern for what begins with `name`: versions and variants, but no longer words if it is a word itself."""
    return re.escape(name) + ("" if name.isalpha() else r"\w*") + r"(?:[-.:]+\w+)*"


def renamed(answer: bytes, model: str) -> bytes:
    """A JSON object of an upstream with another `model`; every other value is the same to the byte."""
    fields = msgspec.json.decode(answer, type=_Object)
    if "model" in fields:
        fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)
