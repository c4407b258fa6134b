"""docs/fields.md is what the table says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from router.api.field_document import text

DOCUMENT = Path(__file__).parents[2] / "docs" / "fields.md"


def test_the_document_is_written_from_the_table() -> None:
    assert DOCUMENT.read_text() == text(), "run: python -m router.api.field_document > docs/fields.md"


def test_the_command_writes_it() -> None:
    command = [sys.executable, "-m", "router.api.field_document"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == text()


def test_it_says_what_becomes_of_a_field_and_which_values_ask_for_nothing() -> None:
    lines = DOCUMENT.read_text().splitlines()
    assert "| `repetition_penalty` | V | alias of `repeat_penalty` |" in lines
    assert '| `modalities` | O | refused. Accepted: `["text"]` |' in lines
    assert any(line.startswith("| `user` | OV | harmless. ") for line in lines)
