"""
Token bytes in, text out that may be shown: no cut character, no stop string and no beginning of one.

The one rule: the text depends on the bytes alone, never on how tokens divided them.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextAssembler:
    """Feed it until `stopped`, then or at the end call `finish` once. The pieces joined are the answer."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        # Clients send [""] and mean none: an empty string would stop every answer before its first letter.
        self._stops = tuple(stop for stop in stops if stop)
        self._longest = max(map(len, self._stops), default=0)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def feed(self, piece: bytes) -> str:
        """The text that has become certain; "" while it may still turn out to be a stop string."""
        return self._take(self._decoder.decode(piece))

    def finish(self) -> str:
        """What was held back: it did not become a stop string. A cut character ends as U+FFFD."""
        text = self._take(self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""
        return text + held

    def _take(self, text: str) -> str:
        if self.stopped:
            return ""
        if not self._stops:
            return text
        self._held += text
        if (start := self._first_stop()) is not None:
            certain, self._held, self.stopped = self._held[:start], "", True
            return certain
        keep = self._possible_stop()
        certain, self._held = self._held[:keep], self._held[keep:]
        return certain

    def _first_stop(self) -> int | None:
        """Where the stop string that is complete first begins; of two that end together, the longer one."""
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        return min(found)[1] if found else None

    def _possible_stop(self) -> int:
        """Where the longest tail begins that a stop string begins with."""
        held = self._held
        for start in range(max(0, len(held) - self._longest + 1), len(held)):
            if any(stop.startswith(held[start:]) for stop in self._stops):
                return start
        return len(held)
