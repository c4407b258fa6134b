"""Two keys ask one model alike: neither learns from the other's answer, or from its own, that the other has asked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.gateway import Gateway, running, write_registry
from tests.engine import tiny

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]
LONG = "Tell me of the merger. " * 87
"""2,001 tokens of the echo."""
Start = Callable[..., Gateway]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def _start(name: str, keys: tuple[str, ...], **top: object) -> Gateway:
            """A gateway over `m` and `same`, two names of one process with one slot."""
            folder = tmp_path / name
            folder.mkdir()
            tiny.llama(folder / "m.gguf", context=4096)
            model = {"path": str(folder / "m.gguf"), "context": 4096, "slots": 1}
            named = [{"name": k, "sha256": hashlib.sha256(k.encode()).hexdigest()} for k in keys]
            path = write_registry(
                folder / "registry.yaml",
                {"m": model, "same": model},
                devices={"host": {"budget": "1GiB"}},
                **({"keys": named} if named else {}),
                **top,
            )
            gateway = running(path, folder, "--backend", "echo")
            return stack.enter_context(gateway)

        yield _start


def cached(gateway: Gateway, key: str, prompt: object = LONG, model: str = "m", **headers: str) -> int:
    """Tokens of the prompt that the answer says were there already."""
    response = gateway.http.post(
        "/v1/completions",
        json={"model": model, "prompt": prompt, "max_tokens": 1},
        headers={"authorization": f"Bearer {key}", **headers},
    )
    assert response.status_code == 200, response.text
    usage = response.json()["usage"]
    return int(usage["prompt_tokens_details"]["cached_tokens"])


def test_what_one_key_asked_is_never_cached_for_another(start: Start) -> None:
    gateway = start("one", ("ada", "bob"))
    assert cached(gateway, "ada") == 0
    assert cached(gateway, "ada") > 1900
    assert cached(gateway, "bob") == 0
    assert cached(gateway, "bob", model="same") > 1900, "one's own is found under another name, too"
    assert cached(gateway, "ada", model="same") == 0
    assert cached(gateway, "bob", [LONG, LONG]) < 2 * 1900, "the second prompt finds the first, and no more"
    assert cached(gateway, "bob", [LONG, LONG]) > 2 * 1900
    assert cached(gateway, "ada", LONG, **{"x-router-tenant": "x"}) == 0
    assert cached(gateway, "bob", LONG, **{"x-router-tenant": "x"}) == 0, "a header only divides"

    chat = {"model": "m", "messages": [{"role": "user", "content": LONG}], "max_tokens": 1}
    found = []
    for key in ("ada", "ada", "bob"):
        answer = gateway.http.post(
            "/v1/chat/completions", json=chat, headers={"authorization": f"Bearer {key}"}
        )
        found.append(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])
    assert (found[0], found[1] > 1900, found[2]) == (0, True, 0)


def test_without_keys_all_share(start: Start) -> None:
    gateway = start("open", ())
    assert cached(gateway, "anybody") == 0
    assert cached(gateway, "whoever") > 1900


def test_a_peer_keeps_the_clients_of_this_gateway_apart(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY_AT_BOX", "gateway")
    box = start("box", ("gateway",))
    peer = {
        "base_url": f"{box.url}/v1",
        "allow_private": True,
        "models": ["m"],
        "api_key": {"env": "KEY_AT_BOX"},
    }
    gateway = start("front", ("ada", "bob"), peers={"box": peer})
    assert cached(gateway, "ada", model="box/m") == 0
    assert cached(gateway, "ada", model="box/m") > 1900
    assert cached(gateway, "bob", model="box/m") == 0
