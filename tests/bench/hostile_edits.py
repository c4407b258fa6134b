"""
The edits of a hostile soak: small, seeded, and now and then broken.

The one rule: the models that the clients ask for are in every good edit; only GUEST comes and goes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

GUEST = "guest"
CONTEXTS = (512, 768)
BROKEN = (
    '{"version": 1, "models": {',
    '{"version": 1, "models": {"a": {"path": "/nowhere.gguf", "slots": "two"}}}',
    '{"version": 7}',
    "models: [unclosed",
    "\tversion: 1\n",
    '{"version": 1, "models": {}, "limits": {"patience": "soon"}}',
)
"""Each is refused as a whole."""


class Edits:
    """Texts of the registry, one after another; the same for the same seed."""

    def __init__(self, files: Sequence[Path], budget: int, seed: int) -> None:
        self._random = random.Random(seed)
        self._guest = {"path": str(files[0].absolute()), "context": 256, "ttl": "3s"}
        self._document: dict[str, Any] = {
            "version": 1,
            "devices": {"auto": {"budget": budget}},
            # A crash loop is short here, so that most requests are served.
            "limits": {
                "max_wait": "40s",
                "hold": "0s",
                "failure_window": "10s",
                "backoff": "1s",
                "backoff_max": "2s",
            },
            "defaults": {"slots": 2, "context": CONTEXTS[0], "ttl": "never"},
            "models": {f"model-{file.stem}": {"path": str(file.absolute())} for file in files},
        }
        self.names = tuple(self._document["models"])
        """What is in every good edit."""

    @property
    def expected(self) -> set[str]:
        """The models of the last good edit."""
        return set(self._document["models"])

    @property
    def text(self) -> str:
        """The last good edit."""
        return json.dumps(self._document, indent=1)

    def next(self) -> tuple[str, bool]:
        """A text to save, and whether it is a good one."""
        draw = self._random
        if draw.random() < 0.15:
            return draw.choice(BROKEN), False
        self._change(draw.choice(["ttl", "params", "priority", "aliases", "context", GUEST, GUEST]))
        return self.text, True

    def _change(self, what: str) -> None:
        draw, models = self._random, self._document["models"]
        model = models[draw.choice(self.names)]
        match what:
            case "ttl":
                model["ttl"] = draw.choice(["never", "5s", "2s", "10m"])
            case "params":
                model["params"] = {"temperature": draw.choice([0.2, 0.7, 1.0])}
            case "priority":
                model["priority"] = draw.choice([-1, 0, 1])
            case "aliases":
                for other in models.values():
                    other.pop("aliases", None)
                model["aliases"] = [draw.choice(["default", "gpt-4o"])]
            case "context":
                model["context"] = draw.choice(CONTEXTS)
            case _ if GUEST in models:
                del models[GUEST]
            case _:
                models[GUEST] = self._guest
