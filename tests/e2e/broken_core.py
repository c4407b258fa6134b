"""
`python -m tests.e2e.broken_core core FILE serve ...`: a gateway whose core breaks at the first alarm once FILE exists.

With `watch` for `core` its look at the registry breaks instead, each time that FILE is there, and removes it; with
`blind` it does not look by itself.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from router.__main__ import main
from router.registry.catalog import Catalog
from router.residency import events
from router.residency.core import Residency


def break_core(flag: Path) -> None:
    whole = Residency.handle

    def handle(self: Residency, event: events.Event) -> Sequence[events.Action]:
        if isinstance(event, events.TimePassed) and flag.exists():
            raise RuntimeError("injected into the core")
        return whole(self, event)

    Residency.handle = handle  # type: ignore[method-assign, assignment]


def break_watch(flag: Path) -> None:
    whole = Catalog.notice

    def break_once() -> None:
        if flag.exists():
            flag.unlink()
            raise RuntimeError("injected into the watch")

    async def notice(self: Catalog) -> None:
        break_once()
        await whole(self)

    Catalog.notice = notice  # type: ignore[method-assign]


def blind(flag: Path) -> None:
    async def notice(self: Catalog) -> None:
        """It sees nothing."""

    Catalog.notice = notice  # type: ignore[method-assign]


if __name__ == "__main__":
    {"core": break_core, "watch": break_watch, "blind": blind}[sys.argv.pop(1)](Path(sys.argv.pop(1)))
    main()
