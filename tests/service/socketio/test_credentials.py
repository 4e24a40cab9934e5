"""Whose a socket is: its credential goes with each of its calls, and its stream ends with it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from rest_facade.socketio import engine
from tests.contract.facade_alone import Facade, running
from tests.contract.fake_server import FakeServer, Pairs, fake_server
from tests.contract.raw_http import Response, exchange, request
from tests.support.waiting import PATIENCE_SECONDS, eventually

ID: Final = "11111111-1111-4111-8111-111111111111"
POLLING: Final = "/socket.io/?EIO=4&transport=polling"
WEBSOCKET: Final = "/socket.io/?EIO=4&transport=websocket"
KEY: Final = {"X-API-KEY": "good-key"}

GIVEN: Mapping[str, tuple[dict[str, str], dict[str, object], Pairs]] = {
    "a header": (KEY, {}, (("x-api-key", "good-key"),)),
    "a bearer": ({"Authorization": "Bearer good-token"}, {}, (("authorization", "Bearer good-token"),)),
    "auth's key": ({}, {"apiKey": "good-key", "entityId": "x"}, (("x-api-key", "good-key"),)),
    "auth's token": ({}, {"token": "good-token"}, (("authorization", "Bearer good-token"),)),
    "the same in both": (KEY, {"apiKey": "good-key"}, (("x-api-key", "good-key"),)),
    "another in both": (KEY, {"apiKey": "bad"}, (("x-api-key", "bad"), ("x-api-key", "good-key"))),
    "the same user in both": (
        KEY | {"X-On-Behalf-Of": ID},
        {"apiKey": "good-key", "onBehalfOf": ID},
        (("x-api-key", "good-key"), ("x-on-behalf-of", ID)),
    ),
    "two": (
        KEY,
        {"token": "good-token"},
        (("authorization", "Bearer good-token"), ("x-api-key", "good-key")),
    ),
    "on behalf": (
        {"X-On-Behalf-Of": ID},
        {"apiKey": "good-key"},
        (("x-api-key", "good-key"), ("x-on-behalf-of", ID)),
    ),
    "on behalf by auth": (
        {},
        {"apiKey": "good-key", "onBehalfOf": ID},
        (("x-api-key", "good-key"), ("x-on-behalf-of", ID)),
    ),
    "none": ({}, {"apiKey": None, "token": "", "entityId": "x"}, ()),
}
"""Headers and `auth` of a handshake, and what goes to the server."""


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with fake_server() as server:
        server.good = {"good-key", "good-token"}
        yield server


@pytest.fixture
async def facade(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Facade]:
    async with running(monkeypatch, server.address) as facade:
        yield facade


class Socket:
    """A WebSocket that speaks Socket.IO as text."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def read(self) -> str:
        """The next packet that is no ping."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (text := str(await self._connection.recv())) == "2":
                await self._connection.send("3")
        return text

    async def send(self, text: str) -> None:
        await self._connection.send(text)

    async def call(self, name: str, payload: object) -> tuple[Any, list[tuple[str, Any]]]:
        """Emits an event; returns its acknowledgement, and the events before that."""
        await self.send(f"427{json.dumps([name, payload])}")
        events = []
        while not (text := await self.read()).startswith("437"):
            events.append(tuple(json.loads(text[2:])))
        return json.loads(text[3:])[0], events


@contextlib.asynccontextmanager
async def opened(
    facade: Facade, headers: Mapping[str, str] | None = None, auth: object = None
) -> AsyncIterator[tuple[Socket, str]]:
    """A socket, and the answer to its connect."""
    url = f"ws://127.0.0.1:{facade.port}{WEBSOCKET}"
    async with connect(url, additional_headers=dict(headers or {})) as connection:
        socket = Socket(connection)
        assert (await socket.read()).startswith("0{")
        await socket.send("40" + (json.dumps(auth) if auth is not None else ""))
        yield socket, await socket.read()


async def greeted(socket: Socket, answer: str) -> None:
    """A client hears of its connection before anything else."""
    assert answer.startswith('40{"sid":')
    assert (await socket.read()).startswith('42["connection_established"')


async def ended(socket: Socket) -> None:
    """Waits until a connection has ended; nothing comes but the engine's own goodbye."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            assert await socket.read() == "1"


async def poll(
    facade: Facade, method: str = "GET", sid: str = "", body: bytes | None = None, **headers: str
) -> Response:
    target = POLLING + (f"&sid={sid}" if sid else "")
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    sent = request(method, target, body, named)
    answer = await asyncio.to_thread(exchange, f"127.0.0.1:{facade.port}", [sent], method=method)
    assert answer is not None
    return answer


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
async def test_every_call_of_a_socket_carries_its_credentials(
    server: FakeServer, facade: Facade, given: tuple[dict[str, str], dict[str, object], Pairs]
) -> None:
    headers, auth, pairs = given
    # The test's own server takes one credential alone: here what goes to it counts.
    server.good = None
    async with opened(facade, headers, auth) as (socket, answer):
        await greeted(socket, answer)
        assert (await socket.call("join", {"roomId": ID}))[0] == {"success": True}
        assert (await socket.call("join", {"roomId": ID, "after": 0}))[0] == {"success": True}
        assert (await socket.call("message", {"type": 2, "payload": {"roomId": ID, "message": "x"}}))[0]
        assert (await socket.call("leave", {"roomId": ID}))[0] == {"success": True}
        called = {name for name, _ in server.calls}
        assert called == {
            "GetSession",
            "WatchSessions",
            "SendMessage",
            *(["GetServiceStatus"] if pairs else []),
        }
        assert {sent for _, sent in server.calls} == {pairs}


async def test_a_socket_over_polling_carries_its_credentials(server: FakeServer, facade: Facade) -> None:
    opening = await poll(facade, X_API_KEY="good-key")
    sid = json.loads(opening.content[1:])["sid"]
    assert (await poll(facade, "POST", sid, b"40", X_API_KEY="good-key")).content == b"OK"
    join = f"420{json.dumps(['join', {'roomId': ID}])}".encode()
    assert (await poll(facade, "POST", sid, join, X_API_KEY="good-key")).content == b"OK"
    told = b""
    while b'430[{"success":true}]' not in told:
        told += (await poll(facade, sid=sid, X_API_KEY="good-key")).content
    assert told.index(b'40{"sid"') < told.index(b"connection_established") < told.index(b"room_joined")
    assert {sent for _, sent in server.calls} == {(("x-api-key", "good-key"),)}


@pytest.mark.parametrize(
    ("headers", "auth"),
    [
        ({"X-API-KEY": "bad"}, None),
        ({"Authorization": "Bearer bad"}, None),
        ({}, {"apiKey": "bad"}),
        ({}, {"token": "bad"}),
        ({}, {"apiKey": "sch\xfcssel"}),
        ({}, {"apiKey": {"a": 1}}),
        ({}, {"token": "x" * 10_000}),
        (KEY, {"apiKey": "bad"}),
    ],
)
async def test_a_bad_credential_is_refused_at_the_connect(
    server: FakeServer, facade: Facade, headers: dict[str, str], auth: object
) -> None:
    async with opened(facade, headers, auth) as (_, answer):
        assert answer.startswith("44")
        assert json.loads(answer[2:])["data"] == {"code": "UNAUTHENTICATED", "error": "No"}
    assert {name for name, _ in server.calls} == {"GetServiceStatus"}


async def test_a_refused_socket_may_not_stay(
    server: FakeServer, facade: Facade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "CONNECT_SECONDS", 0.3)
    async with opened(facade, {"X-API-KEY": "bad"}) as (socket, answer):
        assert answer.startswith("44")
        await socket.send(f"420{json.dumps(['join', {'roomId': ID}])}")
        await ended(socket)
    assert {name for name, _ in server.calls} == {"GetServiceStatus"}


async def test_a_socket_without_a_credential_is_refused_by_event(server: FakeServer, facade: Facade) -> None:
    async with opened(facade) as (socket, answer):
        await greeted(socket, answer)
        for name, payload in (
            ("join", {"roomId": ID}),
            ("message", {"type": 1, "payload": {"roomId": ID}}),
            ("message", {"type": 2, "payload": {"roomId": ID, "message": "x"}}),
            ("leave", {"roomId": ID}),
        ):
            ack, events = await socket.call(name, payload)
            told = {"error": "No", "code": "UNAUTHENTICATED"}
            assert (ack, events) == ({"success": False, **told}, [("messageError", told)])
    assert "WatchSessions" not in {name for name, _ in server.calls}


@pytest.mark.parametrize(
    "fault",
    [("UNAVAILABLE", {"retryAfterSeconds": "1"}), ("RATE_LIMITED", {}), ("INTERNAL", {"errorId": "x"})],
    ids=lambda fault: fault[0],
)
async def test_a_server_that_cannot_say_lets_a_socket_in(
    server: FakeServer, facade: Facade, fault: tuple[str, dict[str, str]]
) -> None:
    server.faults = {"GetServiceStatus": fault}
    async with opened(facade, KEY) as (socket, answer):
        await greeted(socket, answer)
        assert (await socket.call("join", {"roomId": ID}))[0] == {"success": True}


async def test_each_credential_has_a_stream_of_its_own(server: FakeServer, facade: Facade) -> None:
    server.good = None
    async with contextlib.AsyncExitStack() as stack:
        for headers in (KEY, KEY, {"Authorization": "Bearer good-token"}, {}, {}):
            socket, answer = await stack.enter_async_context(opened(facade, headers))
            await greeted(socket, answer)
            await socket.call("join", {"roomId": ID})
        wanted = [(("x-api-key", "good-key"),), (("authorization", "Bearer good-token"),), ()]
        assert server.sent("WatchSessions") == wanted
    # They end with their last sockets.
    await eventually(lambda: not server.open_streams, lambda: server.open_streams)


async def test_a_socket_whose_credential_expires_is_told_and_ended(
    server: FakeServer, facade: Facade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "CONNECT_SECONDS", 0.3)
    async with (
        opened(facade, KEY) as (one, first),
        opened(facade, {}, {"token": "good-token"}) as (two, second),
    ):
        await greeted(one, first)
        await greeted(two, second)
        await one.call("join", {"roomId": ID})
        server.end_streams()
        told = {"error": "The credential has expired", "code": "CREDENTIAL_EXPIRED"}
        assert json.loads((await one.read())[2:]) == ["messageError", told]
        assert await one.read() == "41"
        await ended(one)
        # The other one's is good.
        assert (await two.call("join", {"roomId": ID}))[0] == {"success": True}
    assert len(server.sent("WatchSessions")) == 2


async def test_a_stream_that_is_refused_fails_the_join_and_is_not_asked_for_without_end(
    server: FakeServer, facade: Facade
) -> None:
    rate = {"policy": "watch", "limit": "1", "windowSeconds": "60", "retryAfterSeconds": "60"}
    server.faults = {"WatchSessions": ("RATE_LIMITED", rate)}
    async with opened(facade, KEY) as (socket, answer):
        await greeted(socket, answer)
        for _ in range(3):
            ack, _ = await socket.call("join", {"roomId": ID})
            assert (ack["success"], ack["code"]) == (False, "RATE_LIMITED")
        server.faults = {}
        assert (await socket.call("join", {"roomId": ID}))[0] == {"success": True}
    assert len(server.sent("WatchSessions")) < 10


async def test_a_sid_belongs_to_the_credentials_of_its_handshake(server: FakeServer, facade: Facade) -> None:
    opening = await poll(facade, X_API_KEY="good-key")
    sid = json.loads(opening.content[1:])["sid"]
    others: list[dict[str, str]] = [
        {"X_API_KEY": "good-token"},
        {"Authorization": "Bearer good-key"},
        {"X_API_KEY": "good-key", "X_On_Behalf_Of": ID},
    ]
    for headers in others:
        for method, body in (("GET", None), ("POST", b"40")):
            answer = await poll(facade, method, sid, body, **headers)
            assert (answer.status, json.loads(answer.content)["code"]) == (401, "UNAUTHENTICATED")
            assert answer.headers["www-authenticate"].startswith('Bearer realm="eliza-sessions"')
        url = f"ws://127.0.0.1:{facade.port}{WEBSOCKET}&sid={sid}"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with pytest.raises(InvalidStatus) as raised:
            await connect(url, additional_headers=named)
        assert raised.value.response.status_code == 401
    # A preflight has no headers of its own.
    page = {"Origin": "http://localhost:5173", "Access_Control_Request_Method": "GET"}
    assert (await poll(facade, "OPTIONS", sid, **page)).status < 300
    assert (await poll(facade, "POST", sid, b"40", X_API_KEY="good-key")).status == 200
    # Python's client sends its headers with the handshake only.
    assert (await poll(facade, "GET", sid)).status == 200
    async with connect(
        f"ws://127.0.0.1:{facade.port}{WEBSOCKET}&sid={sid}", additional_headers=KEY
    ) as connection:
        await connection.send("2probe")
        assert await connection.recv() == "3probe"
    other = json.loads((await poll(facade)).content[1:])["sid"]
    assert (await poll(facade, "POST", other, b"40", X_API_KEY="good-key")).status == 401
