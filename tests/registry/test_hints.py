"""What a message says to write is accepted where it says so: each hint is followed, and the fault is gone."""

from __future__ import annotations

import pytest

from tests.registry.conftest import Folder

MODEL = "version: 1\nmodels: {a: {path: a.gguf, %s}}\n"
CLOUD = "cloud: {big: {base_url: '%s', model: m%s}}\n"
BEYOND = MODEL + CLOUD % ("https://x.example/v1", "")

HINTS = [
    (MODEL % "ttl: -1", "write never", "ttl: -1", "ttl: never"),
    (MODEL % "ttl: 0", "write 0s", "ttl: 0", "ttl: 0s"),
    (MODEL % "ttl: 90", "write 90s", "ttl: 90", "ttl: 90s"),
    (MODEL % "pinned: yes", "write true or false", "pinned: yes", "pinned: true"),
    (MODEL % "aliases: [on]", "text, put it in quotes", "[on]", "['on']"),
    (MODEL % "context: 0x100", "write a number plainly", "0x100", "256"),
    (MODEL % "aliases: [1_0]", "put text in quotes", "[1_0]", "['1_0']"),
    ("devices: {host: {budget: 80}}\n" + MODEL % "slots: 1", "write 80%", "budget: 80", "budget: 80%"),
    ("devices: {host: {budget: 8}}\n" + MODEL % "slots: 1", "or 8GiB", "budget: 8", "budget: 8GiB"),
    ("devices: {host: {budget: 0.8}}\n" + MODEL % "slots: 1", "write 80%", "budget: 0.8", "budget: 80%"),
    ("devices: {host: {budget: 8G}}\n" + MODEL % "slots: 1", "write 8GiB", "budget: 8G", "budget: 8GiB"),
    ("limits: {max_wait: 5}\n" + MODEL % "slots: 1", "write 5s", "max_wait: 5", "max_wait: 5s"),
    (
        BEYOND % "slots: 1" + "routes: {r: {candidates: [a, big]}}\n",
        "write cloud: fallback there",
        "slots: 1",
        "cloud: fallback",
    ),
    (
        BEYOND % "slots: 1" + "routes: {r: {candidates: [a, big], cloud: spill}}\n",
        "write cloud: spill there",
        "slots: 1",
        "cloud: spill",
    ),
    (
        MODEL % "slots: 1" + CLOUD % ("http://x.example/v1", ""),
        "write https",
        "http://",
        "https://",
    ),
    (
        MODEL % "slots: 1" + CLOUD % ("http://x.example/v1", ""),
        "or allow_private: true",
        "model: m",
        "model: m, allow_private: true",
    ),
    (
        MODEL % "slots: 1" + "routes: {r: {candidates: [a], reasoning_effort: high}}\n",
        "write accuracy: high",
        "reasoning_effort",
        "accuracy: high, reasoning_effort",
    ),
]


@pytest.mark.parametrize(("text", "hint", "wrong", "right"), HINTS, ids=[hint[1] for hint in HINTS])
def test_who_follows_a_hint_is_not_refused_again(
    folder: Folder, text: str, hint: str, wrong: str, right: str
) -> None:
    folder.model()
    lines = folder.problems(text)
    assert any(hint in line for line in lines), lines
    folder.load(text.replace(wrong, right))


def test_a_file_that_is_too_coarse_for_its_work_may_be_called_good_for_chat(folder: Folder) -> None:
    folder.model(file_type=12)
    text = MODEL % "quality: code"
    assert "write quality: chat" in folder.load(text).warnings[0]
    assert folder.load(text.replace("code", "chat")).warnings == ()
