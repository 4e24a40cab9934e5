"""`eliza-sessions rest` in front of a protected server: its key, its log, and where it may listen."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import requests
from websockets.asyncio.client import connect

from eliza.sessions.call_metadata import FACADE_KEY_KEY
from server.cli.common import StartError
from server.cli.rest import read_key
from tests.contract.fake_server import FakeServer, fake_server
from tests.support.clients import command, run
from tests.support.realtime.programs import Facade, free_address
from tests.support.service import environment
from tests.support.waiting import PATIENCE_SECONDS, eventually

ID = "11111111-1111-4111-8111-111111111111"
KEY = "es_facade_0123456789abcdef"
SECRET = "s3cret-of-a-client"


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with fake_server() as server:
        yield server


@contextlib.asynccontextmanager
async def started(
    server: str, directory: Path, address: str = "127.0.0.1:0", **settings: str
) -> AsyncIterator[Facade]:
    program = await asyncio.to_thread(Facade, server, address, directory, **settings)
    try:
        yield program
    finally:
        await asyncio.to_thread(program.kill)


async def get(url: str, **options: Any) -> requests.Response:
    return await asyncio.to_thread(requests.get, url, timeout=PATIENCE_SECONDS, **options)


async def test_the_facades_key_goes_with_every_call(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    async with started(server.address, tmp_path, FACADE_KEY_FILE=str(path)) as program:
        own = (FACADE_KEY_KEY, KEY)
        await get(f"{program.url}/{ID}")
        await get(f"{program.url}/{ID}", headers={"X-API-KEY": "one"})
        assert sorted(server.sent("GetSession")) == sorted([(own,), (("x-api-key", "one"), own)])
        (await get(f"{program.url}/{ID}/events", stream=True)).close()
        assert server.sent("WatchSessions") == [(own,)]
        body = {"content": "hi", "transport": "http"}
        await asyncio.to_thread(
            requests.post, f"{program.url}/{ID}/messages", json=body, timeout=PATIENCE_SECONDS
        )
        assert server.sent("SendMessage") == [(own,)]
        assert KEY not in program.log_path.read_text()


@pytest.mark.parametrize("content", [None, "", "short", "two words of a key", "schl\xfcssel-schl\xfcssel"])
def test_a_file_without_a_key_is_said_to_have_none(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StartError) as raised:
        read_key(str(path))
    assert str(path) in str(raised.value)
    assert not content or content not in str(raised.value)


def test_a_file_without_a_key_stops_the_start(tmp_path: Path) -> None:
    settings = {"REST_ADDRESS": "127.0.0.1:0", "FACADE_KEY_FILE": str(tmp_path / "none")}
    done = run("rest", "--server", "127.0.0.1:1", cwd=tmp_path, **settings)
    assert done.status > 0
    assert f"FACADE_KEY_FILE {tmp_path / 'none'} cannot be read: No such file" in done.errors


async def test_no_credential_is_in_the_log(server: FakeServer, tmp_path: Path) -> None:
    server.good = {"good"}
    async with started(server.address, tmp_path, LOG_LEVEL="debug") as program:
        for query, headers in (
            (f"?access_token={SECRET}", {}),
            ("", {"X-API-KEY": SECRET}),
            ("", {"Authorization": f"Bearer {SECRET}"}),
            ("", {"X-API-KEY": f"{SECRET}\xfc"}),
            ("", {"X_API_KEY": SECRET}),
        ):
            for path in (f"/{ID}", f"/{ID}/events", f"/{ID}/nothing", "/health"):
                await get(f"{program.url}{path}{query}", headers=headers)
        base = f"{program.address}/socket.io/?EIO=4&access_token={SECRET}"
        opening = await get(f"http://{base}&transport=polling", headers={"X-API-KEY": SECRET})
        sid = json.loads(opening.text[1:])["sid"]
        for body in (f'40{{"token":"{SECRET}"}}', f'40{{"token":"{SECRET}', f"x{SECRET}"):
            await asyncio.to_thread(
                requests.post,
                f"http://{base}&transport=polling&sid={sid}",
                data=body,
                headers={"X-API-KEY": SECRET},
                timeout=PATIENCE_SECONDS,
            )
        await get(f"http://{base}&transport={SECRET}")
        for sent in (
            f'40{{"token":"{SECRET}"}}',
            f'40{{"apiKey":"{SECRET}"}}',
            f'40{{"token":"{SECRET}',
            f"9{SECRET}",
        ):
            headers = {"Authorization": f"Bearer {SECRET}"}
            url = f"ws://{base}&transport=websocket"
            async with connect(url, additional_headers=headers) as socket:
                await socket.recv()
                await socket.send(sent)
                with contextlib.suppress(Exception):
                    assert str(await asyncio.wait_for(socket.recv(), PATIENCE_SECONDS)).startswith("44")
        with contextlib.suppress(Exception):
            await connect(f"ws://{program.address}/nothing?access_token={SECRET}")
        log = program.log_path.read_text()
        # It is one that says something.
        assert "UNAUTHENTICATED" in log
        assert [line for line in log.splitlines() if "s3cret" in line] == []


async def test_an_open_server_is_not_put_on_the_network(server: FakeServer, tmp_path: Path) -> None:
    line = command("rest", "--server", server.address, "--rest-address", "0.0.0.0:0")
    process = await asyncio.create_subprocess_exec(
        *line, cwd=tmp_path, env=environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    assert process.returncode
    assert b"REST_ADDRESS is 0.0.0.0:0, which others can reach" in errors
    assert b"Traceback" not in errors
    async with started(server.address, tmp_path / "allowed", "0.0.0.0:0", ALLOW_OPEN="true") as program:
        port = program.address.rpartition(":")[2]
        assert (await get(f"http://127.0.0.1:{port}/api/messaging/sessions/{ID}")).status_code == 200


async def test_a_protected_server_is(server: FakeServer, tmp_path: Path) -> None:
    server.status_only = True
    async with started(server.address, tmp_path, "0.0.0.0:0") as program:
        url = f"http://127.0.0.1:{program.address.rpartition(':')[2]}/api/messaging/sessions/{ID}"
        await eventually(lambda: server.sent("GetServiceStatus"))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await get(url)).status_code != 200:  # noqa: ASYNC110 - the program says so in no other way
                await asyncio.sleep(0.05)
        # The server was asked as somebody without a credential.
        assert server.sent("GetServiceStatus") == [()]


async def test_until_the_server_says_so_requests_are_answered_as_if_it_were_away(tmp_path: Path) -> None:
    async with started(free_address(), tmp_path, "0.0.0.0:0") as program:
        base = f"http://127.0.0.1:{program.address.rpartition(':')[2]}"
        answer = await get(f"{base}/api/messaging/sessions/{ID}")
        assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
        assert await asyncio.to_thread(program.stop) == 0
