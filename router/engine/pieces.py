"""
Text cut into pieces for a tokenizer: some need a stack as deep as a run of letters is long, others quadratic time.

The one rule: every look is linear in the text, and no cut falls inside the text of a special token. A cut costs
one odd token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from itertools import pairwise

LONG_RUN = 4096
"""Characters without a blank, or blanks only, that are read at once; up to twice as many are."""
SHORT_RUN = 256
"""The same where a text has taken long already."""

_NOT_BLANK = re.compile(r"\S")
_BLANK = re.compile(r"\s")


class Cutter:
    """`specials` are asked for only when something is cut: to find them takes a look at the whole vocabulary."""

    def __init__(self, specials: Callable[[], Collection[str]]) -> None:
        self._find = specials
        self._specials: tuple[re.Pattern[str], int] | None = None

    def pieces(self, text: str, run: int = LONG_RUN) -> Iterator[str]:
        """The text, whole where it has no long run. Joined, the pieces are the text."""
        cuts = [0, *(self._beside_specials(text, cut) for cut in _cuts(text, run)), len(text)]
        for start, end in pairwise(sorted(set(cuts))):
            yield text[start:end]

    def _beside_specials(self, text: str, cut: int) -> int:
        pattern, longest = self._specials or self._learn()
        start = max(0, cut - longest)
        for match in pattern.finditer(text, start, cut + longest):
            if match.start() < cut < match.end():
                return match.start() or match.end()
        return cut

    def _learn(self) -> tuple[re.Pattern[str], int]:
        found = sorted(filter(None, self._find()), key=len, reverse=True)
        pattern = re.compile("|".join(map(re.escape, found)) if found else r"(?!)")
        self._specials = pattern, max(map(len, found), default=0)
        return self._specials


def _cuts(text: str, run: int) -> Iterator[int]:
    """Ends of blocks that make `run` characters of one kind together."""
    half = run // 2
    length, before = 0, None
    for start in range(0, len(text) - half + 1, half):
        kind = _kind(text, start, start + half)
        length = 0 if kind is None else length + half if kind == before else half
        before = kind
        if length >= run:
            length = 0
            yield start + half


def _kind(text: str, start: int, end: int) -> str | None:
    """What all of this is: "blank" or "letters"; None for a mixture."""
    if _BLANK.search(text, start, end) is None:
        return "letters"
    return "blank" if _NOT_BLANK.search(text, start, end) is None else None
