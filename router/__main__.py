"""The `router` command, also as `python -m router`."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    if "serve" in sys.argv[1:]:
        # Its death until there is a handler, which takes a second: a reload that comes too early is not needed.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from router.cli import app

    app()


if __name__ == "__main__":
    main()
