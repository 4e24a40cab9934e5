"""Faults inside: a server in this process whose store raises, seen through gRPC and through the facade on the
same loop.
"""

import asyncio
import contextlib
import socket
import traceback
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
import structlog

from eliza.sessions.v1 import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    message_service_pb2,
    message_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
)
from rest_facade.main import Facade
from rest_facade.upstream.backend import Backend
from server.agents.echo import Echo
from server.clock import Clock
from server.domain.errors import OverloadedError, ResourceExhaustedError, UnavailableError
from server.service import Service
from server.settings import Settings
from server.store import open_store
from tests.contract.answers import Failure, read_error
from tests.contract.drivers import PATIENCE_SECONDS
from tests.contract.grpc_driver import read_rpc_error
from tests.support.service import ECHO, USER, store_fields

SECRET = "the password is swordfish"


class FragileStore:
    """A real store, methods of which can be made to raise."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.faults: dict[str, Exception] = {}

    def __getattr__(self, name: str) -> Any:
        def fail(*_: object, **__: object) -> None:
            raise self.faults[name]

        return fail if name in self.faults else getattr(self._store, name)


@dataclass
class Server:
    """A server and a facade on this loop, and their store."""

    store: FragileStore
    channel: grpc.aio.Channel
    url: str

    async def rest(self, method: str, path: str, **given: Any) -> requests.Response:
        """A request of REST, made beside the loop."""
        return await asyncio.to_thread(
            requests.request, method, f"{self.url}{path}", timeout=PATIENCE_SECONDS, **given
        )


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    settings = Settings(
        test_clock=True,
        **store_fields(tmp_path),
        grpc_address="127.0.0.1:0",
        reply_deadline_seconds=0.2,
    )
    stores: list[FragileStore] = []

    async def open_fragile(url: str, clock: Clock, *rest: Any) -> FragileStore:
        stores.append(FragileStore(await open_store(url, clock, *rest)))
        return stores[0]

    monkeypatch.setattr("server.service.open_store", open_fragile)
    service = await Service.start(settings)
    address = f"127.0.0.1:{service.port}"
    listener = socket.create_server(("127.0.0.1", 0))
    facade = Facade(Backend(service.open_channel, 30, 120), listener, max_requests=100)
    rest_port = listener.getsockname()[1]
    await facade.start()
    async with grpc.aio.insecure_channel(address) as channel:
        yield Server(stores[0], channel, f"http://127.0.0.1:{rest_port}/api/messaging/sessions")
    stores[0].faults.clear()
    await facade.stop(5)
    await service.stop(by_s=asyncio.get_running_loop().time() + 5)


@contextlib.contextmanager
def logged_once(error_id: Callable[[], str]) -> Any:
    """The log has the id in one error, with its cause; the call or request that failed by it may name it
    too.
    """
    with structlog.testing.capture_logs() as entries:
        yield
    failed = ("failed call", "failed request")
    (entry,) = [entry for entry in entries if error_id() in str(entry) and entry["event"] not in failed]
    assert entry["log_level"] == "error", entry
    assert entry["error_id"] == error_id()


def check_hidden(failure: Failure) -> None:
    """Nothing of the inside is in what a client sees."""
    for text in (failure.error, *map(str, failure.details.values())):
        assert SECRET not in text
        assert "Traceback" not in text
        assert "Error(" not in text


async def rpc_failure(call: Any) -> Failure:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert SECRET not in "".join(traceback.format_exception_only(caught.value))
    return read_rpc_error(caught.value)


async def failure_of(call: Any) -> Failure:
    response = await call
    assert SECRET not in response.text
    return read_error(response.status_code, response.headers, response.content)


async def new_session(server: Server) -> str:
    response = await server.rest("POST", "", json={"agentId": ECHO, "userId": USER})
    assert response.status_code == 201, response.text
    return response.json()["sessionId"]


async def test_a_session_that_cannot_be_created_is_a_500_that_hides_the_cause(server: Server) -> None:
    server.store.faults["create_session"] = RuntimeError(SECRET)
    stub, error_id = session_service_pb2_grpc.SessionServiceStub(server.channel), ""
    with logged_once(lambda: error_id):
        failure = await rpc_failure(
            stub.CreateSession(session_service_pb2.CreateSessionRequest(agent_id=ECHO, user_id=USER))
        )
        error_id = failure.details["reason"].split()[-1]
    assert failure.code == "SESSION_CREATION_FAILED"
    check_hidden(failure)
    with logged_once(lambda: error_id):
        failure = await failure_of(server.rest("POST", "", json={"agentId": ECHO, "userId": USER}))
        error_id = failure.details["reason"].split()[-1]
    assert failure.code == "SESSION_CREATION_FAILED"
    check_hidden(failure)
    server.store.faults.clear()
    assert (await server.rest("GET", "")).json()["total"] == 0
    await new_session(server)


async def test_a_message_that_cannot_be_sent_is_a_500_that_hides_the_cause(server: Server) -> None:
    session, error_id = await new_session(server), ""
    server.store.faults["apply"] = RuntimeError(SECRET)
    stub = message_service_pb2_grpc.MessageServiceStub(server.channel)
    with logged_once(lambda: error_id):
        failure = await rpc_failure(
            stub.SendMessage(message_service_pb2.SendMessageRequest(session_id=session, content="Hello"))
        )
        error_id = failure.details["reason"].split()[-1]
    assert (failure.code, failure.details["sessionId"]) == ("MESSAGE_SEND_FAILED", session)
    check_hidden(failure)
    with logged_once(lambda: error_id):
        failure = await failure_of(server.rest("POST", f"/{session}/messages", json={"content": "Hello"}))
        error_id = failure.details["reason"].split()[-1]
    assert (failure.code, failure.details["sessionId"]) == ("MESSAGE_SEND_FAILED", session)
    check_hidden(failure)
    failure = await failure_of(server.rest("POST", f"/{session.upper()}/messages", json={"content": "Hello"}))
    assert failure.details["sessionId"] == session
    server.store.faults.clear()
    assert (await server.rest("GET", f"/{session}/messages")).json()["messages"] == []
    assert (await server.rest("POST", f"/{session}/messages", json={"content": "Hello"})).status_code == 201


@pytest.mark.parametrize(
    ("fault", "method", "path", "body"),
    [
        ("get_session", "GET", "/{}", None),
        ("get_session", "GET", "/{}/messages", None),
        ("list_messages", "GET", "/{}/messages", None),
        ("list_sessions", "GET", "", None),
        ("counts", "GET", "", None),
        ("apply", "POST", "/{}/renew", {}),
        ("apply", "POST", "/{}/heartbeat", {}),
        ("apply", "PATCH", "/{}/timeout", {"timeoutMinutes": 10}),
        ("delete_session", "DELETE", "/{}", None),
    ],
)
async def test_an_internal_error_tells_the_id_that_the_log_has(
    server: Server, fault: str, method: str, path: str, body: Any
) -> None:
    session, error_id = await new_session(server), ""
    before = (await server.rest("GET", f"/{session}")).json()
    server.store.faults[fault] = RuntimeError(SECRET)
    with logged_once(lambda: error_id):
        failure = await failure_of(server.rest(method, path.format(session), json=body))
        error_id = failure.details["errorId"]
    assert failure.code == "INTERNAL"
    check_hidden(failure)
    server.store.faults.clear()
    assert (await server.rest("GET", f"/{session}")).json() == before


async def test_an_internal_error_over_grpc_alone_tells_the_id_that_the_log_has(server: Server) -> None:
    server.store.faults["list_agents"] = RuntimeError(SECRET)
    stub, error_id = agent_service_pb2_grpc.AgentServiceStub(server.channel), ""
    with logged_once(lambda: error_id):
        failure = await rpc_failure(stub.ListAgents(agent_service_pb2.ListAgentsRequest()))
        error_id = failure.details["errorId"]
    assert failure.code == "INTERNAL"
    check_hidden(failure)


async def test_a_service_that_cannot_count_says_unhealthy(server: Server) -> None:
    server.store.faults["counts"] = RuntimeError(SECRET)
    response = await server.rest("GET", "/health")
    assert response.status_code == 503
    assert response.json()["status"] == "unhealthy"
    assert SECRET not in response.text
    read_error(response.status_code, response.headers, response.content)
    server.store.faults.clear()
    assert (await server.rest("GET", "/health")).json()["status"] == "healthy"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (ResourceExhaustedError("The store is full"), "RESOURCE_EXHAUSTED"),
        (UnavailableError("The store is busy"), "UNAVAILABLE"),
        (OverloadedError("too many writes are waiting"), "OVERLOADED"),
    ],
)
async def test_a_store_that_has_no_room_or_no_time_is_a_503(
    server: Server, fault: Exception, code: str
) -> None:
    session = await new_session(server)
    server.store.faults = {"apply": fault, "create_session": fault}
    stub = message_service_pb2_grpc.MessageServiceStub(server.channel)
    failure = await rpc_failure(
        stub.SendMessage(message_service_pb2.SendMessageRequest(session_id=session, content="Hello"))
    )
    assert failure.code == code
    for path, body in (
        (f"/{session}/messages", {"content": "Hello"}),
        (f"/{session}/renew", {}),
        ("", {"agentId": ECHO, "userId": USER}),
    ):
        response = await server.rest("POST", path, json=body)
        failure = read_error(response.status_code, response.headers, response.content)
        assert (response.status_code, failure.code) == (503, code)
        assert response.headers["Retry-After"] == str(failure.details["retryAfterSeconds"])
    server.store.faults.clear()
    assert (await server.rest("POST", f"/{session}/messages", json={"content": "Hello"})).status_code == 201


async def _mute(*_: object) -> None:
    """An agent that never answers."""
    await asyncio.Event().wait()


async def _broken(*_: object) -> None:
    """An agent that fails."""
    raise RuntimeError(SECRET)


async def test_an_agent_that_does_not_reply_in_time_is_a_504(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await new_session(server)
    with monkeypatch.context() as patch:
        patch.setattr(Echo, "reply", _mute)
        failure = await failure_of(
            server.rest("POST", f"/{session}/messages", json={"content": "Hello", "transport": "http"})
        )
    assert (failure.code, failure.details["sessionId"]) == ("AGENT_REPLY_TIMEOUT", session)
    (kept,) = (await server.rest("GET", f"/{session}/messages")).json()["messages"]
    assert (kept["id"], kept["content"]) == (failure.details["messageId"], "Hello")
    # The service would wait for the reply when it stops.
    await server.rest("DELETE", f"/{session}")


async def test_an_agent_that_fails_is_a_502(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    session, error_id = await new_session(server), ""
    with monkeypatch.context() as patch:
        patch.setattr(Echo, "reply", _broken)
        with logged_once(lambda: error_id):
            failure = await failure_of(
                server.rest("POST", f"/{session}/messages", json={"content": "Hello", "transport": "http"})
            )
            error_id = failure.details["reason"].split()[-1]
    assert failure.code == "AGENT_REPLY_FAILED"
    check_hidden(failure)
    (kept,) = (await server.rest("GET", f"/{session}/messages")).json()["messages"]
    assert kept["id"] == failure.details["messageId"]
