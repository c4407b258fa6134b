"""The `router` command, also as `python -m router`."""

from __future__ import annotations


def main() -> None:
    from router.cli import app

    app()


if __name__ == "__main__":
    main()
