"""
What passes of an answer, counted here: an upstream's own count is believed only as far as ours does not contradict it.

The one rule: pure; never more tokens than there can have been, so that no honest answer is cut or overcharged.
"""

from __future__ import annotations

from router.cloud.events import Facts
from router.domain.generation import Usage

SLACK = 64
"""Tokens above its limit that an answer may have, or a quarter of the limit if that is more."""
COMMON_BYTES = 4
"""Of a token on average. Some relays cut their answers into single letters, so pieces alone are no tokens."""
MOST_BYTES = 64
"""Of a token on average, at most: others put many tokens into one piece, and some tokens are long runs of blanks."""


class Tally:
    """
    `limit`: tokens that all answers may have together, None = nobody said. `answers`: how many are expected.

    `echoed`: bytes of the prompt that come back in front of the answers, and are none of them.
    """

    def __init__(self, limit: int | None = None, answers: int = 1, echoed: int = 0) -> None:
        self.limit = limit
        self.told: Usage | None = None
        """The largest numbers of all usages that were told."""
        self.current = False
        """Whether a usage came with the last words or after them."""
        self.last_word = False
        """Whether a usage alone came after an answer's end: nothing is missing but the end of the stream."""
        self._answers = answers
        self._left_of_echo = echoed
        self._pieces = 0
        self._bytes = 0
        self._ended: set[int] = set()

    def note(self, facts: Facts) -> bool:
        """Count one event, or a whole answer. True when it brought something of an answer: words, an image, an end."""
        going_on = facts.anything and not self.finished
        ended = {index for index in facts.ended if 0 <= index < self._answers}
        new = ended - self._ended
        self._ended = (self._ended - set(facts.spoke)) | ended
        echoed = min(self._left_of_echo, facts.words)
        self._left_of_echo -= echoed
        self._bytes += facts.words - echoed
        self._pieces += len(facts.spoke)
        if facts.usage or facts.choices:
            self.current = facts.usage is not None
            self.last_word = self.current and not facts.choices and bool(self._ended)
        if facts.usage:
            self.told = _larger(self.told or Usage(0, 0), facts.usage)
        return bool(facts.words or going_on or new)

    @property
    def at_least(self) -> int:
        """Tokens that have passed, never too many."""
        return max(min(self._pieces, self._bytes // COMMON_BYTES), self._bytes // MOST_BYTES)

    @property
    def finished(self) -> bool:
        """Every answer that was asked for has its end; only a usage and [DONE] may still come."""
        return len(self._ended) >= self._answers

    @property
    def passed_limit(self) -> bool:
        """Clearly more has come, or was told of an answer that goes on, than was asked for."""
        if self.limit is None:
            return False
        # An end excuses what is told, since nothing more is to come; it never excuses words that did come.
        told = self.told.completion_tokens if self.told and not self.finished else 0
        return max(self.at_least, told) > self.limit + max(SLACK, self.limit // 4)


def _larger(one: Usage, other: Usage) -> Usage:
    return Usage(
        max(one.prompt_tokens, other.prompt_tokens),
        max(one.completion_tokens, other.completion_tokens),
        max(one.cached_tokens, other.cached_tokens),
    )
