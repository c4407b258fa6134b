"""The operator's key is read where it is, and shown nowhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from router.cloud import keys
from router.domain.errors import UpstreamUnavailable
from router.domain.upstreams import KeySource, Upstream


def keyed(kind: str, name: str) -> Upstream:
    return Upstream("big", "https://x/v1", "m", api_key=KeySource(kind, name))  # type: ignore[arg-type]


def test_no_key_where_none_is_needed() -> None:
    assert keys.read(Upstream("box", "http://x/v1", "m")) is None


def test_a_key_comes_from_the_environment() -> None:
    assert keys.read(keyed("env", "BIG_KEY"), {"BIG_KEY": "sk-1"}) == "sk-1"


def test_a_key_comes_from_a_file_without_its_last_line_end_and_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "key"
    for text in ("sk-1\n", "sk-2\n"):
        file.write_text(text)
        assert keys.read(keyed("file", str(file))) == text.strip()


@pytest.mark.parametrize("value", ["", "  ", "sk-canary\nx: y", "sk canary", "sk-cänary", "\x00"])
def test_what_is_no_key_is_refused_and_not_shown(value: str) -> None:
    with pytest.raises(UpstreamUnavailable) as caught:
        keys.read(keyed("env", "BIG_KEY"), {"BIG_KEY": value})
    assert caught.value.reason == "key"
    assert "environment variable BIG_KEY" in caught.value.__notes__[0]
    assert "nary" not in f"{caught.value} {caught.value.__notes__}"


def note(source: Upstream) -> str:
    with pytest.raises(UpstreamUnavailable) as caught:
        keys.read(source, {})
    assert caught.value.message == "The gateway has no key for big."
    return caught.value.__notes__[0]


def test_a_missing_one_is_named_by_its_place_to_the_operator_and_not_to_the_client(tmp_path: Path) -> None:
    assert note(keyed("env", "BIG_KEY")) == "the environment variable BIG_KEY is not set"
    assert "none cannot be read (No such file" in note(keyed("file", str(tmp_path / "none")))


def test_a_pipe_or_a_large_file_stops_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_text("x" * 9000)
    assert "no regular file" in note(keyed("file", str(tmp_path / "pipe")))
    assert "more than 8192 bytes" in note(keyed("file", str(tmp_path / "large")))
