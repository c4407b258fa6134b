from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import delays
from tests.registry.conftest import Folder


@pytest.mark.process
def test_the_delays_are_measured_from_start_to_end(tmp_path: Path) -> None:
    file = Folder(tmp_path).model("m?step_ms=20", context=2000)
    found = delays.run(delays.parse(["--rounds", "2", "--model", str(file)]), "--backend", "echo")
    assert found.keys() == delays.PROMISED.keys()
    assert all(min(seconds) >= 0 for seconds in found.values())
