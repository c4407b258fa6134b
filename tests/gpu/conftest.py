"""These tests need an NVIDIA device and an engine built for it; without a device they are not collected."""

from __future__ import annotations

from router.sizing.devices import detect

collect_ignore_glob = [] if any(device.kind == "cuda" for device in detect()) else ["test_*.py"]
