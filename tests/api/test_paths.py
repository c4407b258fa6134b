"""How clients spell paths, methods and keys, over a real socket: all of them served, and none of them a way round a key."""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import AsyncIterator

import openai
import pytest

from router.api.app import TABLE
from router.api.middleware import canonical
from tests.api.door import served
from tests.api.test_middleware import ALICE, BOB, KEYS
from tests.local import local_model
from tests.scene import A, B, Scene, chat_body, scene

ODD = local_model("odd//name")
READ = [row.path.replace("{id:path}", B.name) for row in TABLE if "GET" in row.methods]


@pytest.fixture
async def house() -> AsyncIterator[Scene]:
    async with scene(A, B, ODD) as running:
        yield running


async def curl(url: str, *flags: str) -> tuple[int, str]:
    """Status and what was printed; the path goes out as it is written."""
    command = [
        "curl",
        "--silent",
        "--path-as-is",
        "--noproxy",
        "*",
        "--max-time",
        "60",
        "--write-out",
        "\n%{http_code}",
    ]
    process = await asyncio.create_subprocess_exec(*command, *flags, url, stdout=asyncio.subprocess.PIPE)
    told, _ = await process.communicate()
    text, _, status = told.decode().rpartition("\n")
    return int(status), text


@pytest.mark.parametrize(
    ("path", "same"),
    [
        ("/v1//models", "/v1/models"),
        ("//v1/models", "/v1/models"),
        ("/v1/models/", "/v1/models"),
        ("/v1/models//", "/v1/models"),
        ("/models/", "/models"),
        (f"/v1//models/{A.name}", f"/v1/models/{A.name}"),
        (f"/v1/models/{A.name}/", f"/v1/models/{A.name}"),
        (f"/v1/models/{A.name.replace('/', '%2F')}", f"/v1/models/{A.name}"),
        ("/v1/models//odd//name/", "/v1/models/odd//name"),
        ("/livez/", "/livez"),
        ("//livez", "/livez"),
        ("//", "/"),
    ],
)
async def test_a_path_with_slashes_too_many_is_served_as_the_one_without(
    house: Scene, path: str, same: str
) -> None:
    async with served(house) as url:
        found, expected = await curl(url + path), await curl(url + same)
    assert found == expected
    assert found[0] == 200


async def test_a_post_to_such_a_path_is_answered_and_counted(house: Scene) -> None:
    async with served(house) as url:
        for path in ("/v1//chat/completions", "/v1/chat/completions/", "//chat/completions"):
            body = f'{{"model": "b", "messages": [{{"role": "user", "content": "{path}"}}]}}'
            status, _ = await curl(
                url + path, "--header", "content-type: application/json", "--data-raw", body
            )
            assert status == 200
    assert house.total("router_requests_total", code="200", finish="stop") == 3
    assert house.total("router_route_requests_total", route="chat", code="200") == 3


@pytest.mark.parametrize(
    "path",
    [
        "/v1//models",
        "/v1/models/",
        "/livez/../v1/models",
        "/livez/..",
        "/livez%2F..%2Fv1%2Fmodels",
        "/livezz",
        "//",
        "/livez%00",
        "/livez;x",
        "/LIVEZ",
        "/%2e/livez",
        "/livez%5C",
        "/metrics/",
        "//running",
        "/v1/models/b/",
    ],
)
async def test_no_spelling_of_a_path_goes_round_the_key(path: str) -> None:
    async with scene(keys=KEYS) as house, served(house) as url:
        assert (await curl(url + path))[0] == 401


@pytest.mark.parametrize("path", ["//livez", "/livez/", "/livez//", "/%2Flivez", "/readyz/"])
async def test_probes_stay_open_however_they_are_spelled(path: str) -> None:
    async with scene(keys=KEYS) as house, served(house) as url:
        assert (await curl(url + path))[0] == 200


async def test_a_key_is_held_to_its_models_however_the_path_is_spelled() -> None:
    async with scene(keys=KEYS) as house, served(house) as url:
        (header,) = BOB.items()
        for path in (f"/v1//models/{A.name}", f"/v1/models/{A.name}/", f"//models//{A.name}"):
            assert (await curl(url + path, "--header", ": ".join(header)))[0] == 404


@pytest.mark.parametrize("path", READ)
async def test_head_is_answered_wherever_get_is_with_its_headers_and_without_a_body(path: str) -> None:
    async with scene(A, B) as house, served(house) as url:
        where = urllib.parse.urlsplit(url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        writer.write(f"HEAD {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        async with asyncio.timeout(20):
            head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        writer.close()
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"content-type: " in head
        assert body == b""


async def test_head_changes_nothing() -> None:
    async with scene(A, B, keys=KEYS) as house:
        await house.ask("POST", "/v1/chat/completions", chat_body(), headers=ALICE)
        assert (await house.ask("HEAD", "/unload", headers=ALICE)).status == 200
        assert (await house.ask("HEAD", "/unload", headers=BOB)).status == 403
        assert house.house.residency.view().status(A.name) == "loaded"


async def test_the_client_of_azure_is_known_by_its_header() -> None:
    async with scene(keys=KEYS) as house, served(house) as url:
        for secret, models in (("s3cret-a", [A.name, B.name]), ("s3cret-b", [B.name])):
            azure = openai.AsyncAzureOpenAI(base_url=f"{url}/v1", api_key=secret, api_version="2024-10-21")
            async with azure:
                assert [model.id async for model in azure.models.list()] == models
        azure = openai.AsyncAzureOpenAI(base_url=f"{url}/v1", api_key="wrong", api_version="2024-10-21")
        async with azure:
            with pytest.raises(openai.AuthenticationError, match="'x-api-key' or 'api-key'"):
                await azure.models.list()


async def test_a_key_in_any_header_is_told_to_nobody() -> None:
    async with scene(keys=KEYS) as house:
        refused = await house.ask("GET", "/v1/models", headers={"api-key": "wrong-s3cret"})
    assert (refused.status, "s3cret" in refused.text) == (401, False)


@pytest.mark.parametrize(
    "path", ["/", "//", "/" * 65_000, "/v1" * 20_000, "/models" + "/" * 60_000, "", "*", "/models/\n"]
)
def test_a_canonical_path_is_its_own(path: str) -> None:
    assert canonical(canonical(path)) == canonical(path)
