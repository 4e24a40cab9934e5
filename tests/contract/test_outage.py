"""The facade while its server is away, slow or odd, and when its clients leave."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests

from tests.contract.answers import read_error
from tests.contract.drivers import PATIENCE_SECONDS
from tests.contract.raw_http import request
from tests.support.realtime.programs import Facade, free_address
from tests.support.service import ECHO, USER, Start
from tests.support.waiting import until


@pytest.fixture
def facade(tmp_path: Path) -> Iterator[Callable[..., Facade]]:
    """Starts facades: `facade("127.0.0.1:5000", REST_DEADLINE_SECONDS="1")`."""
    running: list[Facade] = []

    def starter(server: str, **settings: str) -> Facade:
        named = {"SHUTDOWN_GRACE_SECONDS": "1", **settings}
        running.append(Facade(server, "127.0.0.1:0", tmp_path / "facade", **named))
        return running[-1]

    yield starter
    for one in running:
        assert one.stop() == 0


def check_away(facade: Facade) -> None:
    """Everything says 503, in the error body and with Retry-After."""
    calls: list[tuple[str, str, Any]] = [
        ("GET", "", None),
        ("POST", "", {"agentId": ECHO, "userId": USER}),
        ("GET", f"/{USER}", None),
        ("POST", f"/{USER}/messages", {"content": "Hello"}),
        # The session would have to be looked for before the body is called bad.
        ("POST", f"/{USER}/messages", {"content": ""}),
        ("GET", f"/{USER}/messages", None),
        ("POST", f"/{USER}/renew", None),
        ("PATCH", f"/{USER}/timeout", {"timeoutMinutes": 10}),
        ("POST", f"/{USER}/heartbeat", None),
        ("DELETE", f"/{USER}", None),
        ("GET", "/health", None),
    ]
    for method, path, body in calls:
        response = requests.request(method, f"{facade.url}{path}", json=body, timeout=PATIENCE_SECONDS)
        failure = read_error(response.status_code, response.headers, response.content)
        assert (response.status_code, failure.code) == (503, "UNAVAILABLE"), (method, path)
        assert int(response.headers["Retry-After"]) >= 1
    assert facade.health().json()["status"] == "unhealthy"
    # What needs no server is answered as ever.
    response = requests.post(
        facade.url, data="{", headers={"Content-Type": "application/json"}, timeout=PATIENCE_SECONDS
    )
    assert read_error(response.status_code, response.headers, response.content).code == "INVALID_REQUEST"
    response = requests.get(f"http://{facade.address}/nothing", timeout=PATIENCE_SECONDS)
    assert read_error(response.status_code, response.headers, response.content).code == "PATH_NOT_FOUND"


def test_a_server_that_goes_is_a_503_until_it_comes_back(facade: Callable[..., Facade], start: Start) -> None:
    address = free_address()
    front = facade(address)
    sessions = []
    for number in range(2):
        until(lambda: front.health().status_code == 503, "a facade without a server")
        check_away(front)
        server = start("--no-rest", GRPC_ADDRESS=address, TEST_CLOCK="1")
        until(lambda: front.health().status_code == 200, "a facade that has found its server")
        assert front.health().json()["status"] == "healthy"
        for session in sessions:
            assert requests.get(f"{front.url}/{session}", timeout=PATIENCE_SECONDS).status_code == 200
        created = requests.post(front.url, json={"agentId": ECHO, "userId": USER}, timeout=PATIENCE_SECONDS)
        assert created.status_code == 201, created.text
        sessions.append(created.json()["sessionId"])
        if number:
            server.kill()
        else:
            assert server.stop() == 0
    until(lambda: front.health().status_code == 503, "a facade without a server")
    check_away(front)
    assert front.process.poll() is None
    assert "Traceback" not in front.log_path.read_text()


class Silent(grpc.GenericRpcHandler):
    """A server that never answers, or always with one status; it tells what reached it and what was
    cancelled.
    """

    def __init__(self) -> None:
        self.status: grpc.StatusCode | None = None
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self.cancelled: asyncio.Queue[str] = asyncio.Queue()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Every method there is."""
        method = handler_call_details.method.rpartition("/")[2]

        async def answer(_: bytes, context: grpc.aio.ServicerContext) -> bytes:
            self.begun.put_nowait(method)
            if self.status is not None:
                await context.abort(self.status, "a secret of the inside")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.put_nowait(method)
                raise
            raise AssertionError("waits for ever")

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
async def silent() -> AsyncIterator[tuple[Silent, str]]:
    """A silent server and its address."""
    handler, server = Silent(), grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield handler, f"127.0.0.1:{port}"
    await server.stop(None)


async def ask(method: str, url: str, **given: Any) -> requests.Response:
    """A request beside the loop."""
    return await asyncio.to_thread(requests.request, method, url, timeout=PATIENCE_SECONDS, **given)


async def test_a_server_that_does_not_answer_is_a_504(
    silent: tuple[Silent, str], facade: Callable[..., Facade]
) -> None:
    handler, address = silent
    front = await asyncio.to_thread(facade, address, REST_DEADLINE_SECONDS="0.2")
    for method, path, body, rpc in (
        ("GET", f"/{USER}", None, "GetSession"),
        ("POST", f"/{USER}/messages", {"content": "Hello"}, "SendMessage"),
        ("POST", f"/{USER}/messages", {"content": 5}, "GetSession"),
        ("GET", "", None, "ListSessions"),
    ):
        response = await ask(method, f"{front.url}{path}", json=body)
        failure = read_error(response.status_code, response.headers, response.content)
        assert (response.status_code, failure.code) == (504, "DEADLINE_EXCEEDED")
        assert await asyncio.wait_for(handler.begun.get(), PATIENCE_SECONDS) == rpc
        assert await asyncio.wait_for(handler.cancelled.get(), PATIENCE_SECONDS) == rpc
    response = await ask("GET", f"{front.url}/health")
    assert response.status_code == 503
    assert response.json()["status"] == "unhealthy"
    assert read_error(response.status_code, response.headers, response.content).code == "UNAVAILABLE"


async def test_a_client_that_leaves_takes_its_call_along(
    silent: tuple[Silent, str], facade: Callable[..., Facade]
) -> None:
    handler, address = silent
    front = await asyncio.to_thread(facade, address, REST_DEADLINE_SECONDS="600")
    host, _, port = front.address.rpartition(":")
    for method, path, body, rpc in (
        ("GET", f"/{USER}", b"", "GetSession"),
        ("POST", f"/{USER}/messages", b'{"content": "Hello"}', "SendMessage"),
    ):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            request(method, f"/api/messaging/sessions{path}", body, (("Content-Type", "application/json"),))
        )
        assert await asyncio.wait_for(handler.begun.get(), PATIENCE_SECONDS) == rpc
        assert handler.cancelled.empty()
        writer.close()
        await writer.wait_closed()
        assert await asyncio.wait_for(handler.cancelled.get(), PATIENCE_SECONDS) == rpc
    assert "Traceback" not in front.log_path.read_text()
    # It still listens to others.
    handler.status = grpc.StatusCode.UNAVAILABLE
    assert (await ask("GET", f"{front.url}/{USER}")).status_code == 503


async def test_statuses_without_a_reason_become_errors_of_the_contract(
    silent: tuple[Silent, str], facade: Callable[..., Facade]
) -> None:
    """Errors without ErrorInfo, as gRPC itself and proxies give them."""
    handler, address = silent
    front = await asyncio.to_thread(facade, address)
    expected = {
        "CANCELLED": (503, "UNAVAILABLE"),
        "UNAVAILABLE": (503, "UNAVAILABLE"),
        "RESOURCE_EXHAUSTED": (503, "RESOURCE_EXHAUSTED"),
        "DEADLINE_EXCEEDED": (504, "DEADLINE_EXCEEDED"),
    }
    for status in grpc.StatusCode:
        if status is grpc.StatusCode.OK:
            continue
        handler.status = status
        response = await ask("GET", f"{front.url}/{USER}")
        failure = read_error(response.status_code, response.headers, response.content)
        assert (response.status_code, failure.code) == expected.get(status.name, (500, "INTERNAL")), status
        assert "secret" not in response.text
        if failure.code == "INTERNAL":
            assert front.log_path.read_text().count(failure.details["errorId"]) == 1
        health = await ask("GET", f"{front.url}/health")
        assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
