"""
A user without a home: no HOME, and a user id that /etc/passwd does not know, as `docker run --user 54321` makes one.

Not everybody may become such a user, and such a user may not read everybody's checkout. So
`python -m tests.e2e.homeless` has passwd forget everybody, in its own process, and then is the `router` command.
"""

from __future__ import annotations

import os
import pwd
import sys
from typing import Any

from router.__main__ import main

COMMAND = ("-m", "tests.e2e.homeless")
HOMES = ("HOME", "ROUTER_CACHE", "ROUTER_STATE", "XDG_CACHE_HOME", "XDG_STATE_HOME")


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in HOMES}


def forget(uid: int) -> Any:
    raise KeyError(f"getpwuid(): uid not found: {uid}")


if __name__ == "__main__":
    pwd.getpwuid = forget  # type: ignore[assignment]
    sys.argv[0] = "router"
    main()
