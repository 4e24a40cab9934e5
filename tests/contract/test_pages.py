"""Lists larger than an answer that goes out as a whole: on the way, broken off, and never read."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from eliza.sessions.v1 import message_service_pb2 as pb
from eliza.sessions.v1 import message_service_pb2_grpc
from rest_facade.front_door import answers, connections
from tests.contract.drivers import PATIENCE_SECONDS
from tests.contract.facade_alone import Facade, rest, running
from tests.support.clients import create, replies
from tests.support.service import Serve
from tests.support.waiting import eventually

SESSION = "11111111-1111-4111-8111-111111111112"
LIST = (
    b"GET /api/messaging/sessions/%b/messages?limit=100 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    % SESSION.encode()
)


@pytest.mark.parametrize("query", ["", "&after=1", "&before=9999999999999", "&before=9999999999999&after=1"])
def test_a_large_page_is_what_small_ones_are_together(rest_service: Serve, query: str) -> None:
    session = create(rest_service).session_id
    url = f"{rest_service.url}/{session}/messages"
    for number in range(4):
        body = {"content": f"message {number}", "attachments": [{"url": "x" * 700_000}]}
        assert rest_service.http.post(url, json=body, timeout=PATIENCE_SECONDS).status_code == 201
    # So that no message comes between the lists that are compared.
    replies(rest_service, session, 4)
    answer = rest_service.http.get(f"{url}?limit=100{query}", timeout=PATIENCE_SECONDS)
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert "Content-Length" not in answer.headers
    page = answer.json()
    assert list(page) == ["messages", "hasMore", "cursors"]
    mine = [message["content"] for message in page["messages"] if not message["isAgent"]]
    assert mine == [f"message {number}" for number in (3, 2, 1, 0)]
    times = [message["createdAt"] for message in page["messages"]]
    assert times == sorted(times, reverse=True)
    # A page that is not the last one tells so, whatever its size.
    part = rest_service.http.get(f"{url}?limit=3{query}", timeout=PATIENCE_SECONDS).json()
    assert (len(part["messages"]), part["hasMore"]) == (3, True)
    assert all(message in page["messages"] for message in part["messages"])
    # A small one has its length.
    small = rest_service.http.get(f"{url}?limit=1&before=1", timeout=PATIENCE_SECONDS)
    assert small.json() == {"messages": [], "hasMore": False}
    assert int(small.headers["Content-Length"]) == len(small.content)


class Messages(message_service_pb2_grpc.MessageServiceServicer):
    """Gives pages of one message of 600 KB, up to as many as are set, and then fails."""

    asked = 0
    fails_after = 1_000_000

    async def ListMessages(self, request: pb.ListMessagesRequest, context: Any) -> pb.ListMessagesResponse:
        self.asked += 1
        if self.asked > self.fails_after:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        page = pb.ListMessagesResponse(has_more=True, next_page_token=str(self.asked))
        message = page.messages.add(message_id=SESSION, content="x" * 600_000)
        message.created_at.FromSeconds(2_000_000_000 - self.asked)
        return page


@contextlib.asynccontextmanager
async def facing(monkeypatch: pytest.MonkeyPatch, messages: Messages) -> AsyncIterator[Facade]:
    """A facade before a server that only lists messages."""
    server = grpc.aio.server()
    message_service_pb2_grpc.add_MessageServiceServicer_to_server(messages, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with running(monkeypatch, f"127.0.0.1:{port}") as facade:
            yield facade
    finally:
        await server.stop(0)


async def test_a_failure_midway_cuts_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = Messages()
    messages.fails_after = 5
    async with facing(monkeypatch, messages) as facade:
        reader, _ = await facade.connect(LIST)
        answer = await rest(reader)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"transfer-encoding: chunked" in answer
        assert b"content-length" not in answer
        assert answer.count(b"x") // 600_000 == 5
        assert not answer.endswith(b"0\r\n\r\n")


async def test_a_failure_at_first_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = Messages()
    messages.fails_after = 1
    async with facing(monkeypatch, messages) as facade:
        assert await facade.status(LIST) == 503


async def test_a_page_that_is_not_read_is_not_fetched_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(connections, "WRITE_SECONDS", 1)
    messages = Messages()
    async with facing(monkeypatch, messages) as facade:
        reader, writer = await facade.connect(LIST)
        writer.transport.pause_reading()
        await eventually(lambda: bool(facade.shared.lagging))
        await facade.shared.are_gone()
        # What the sockets' buffers hold is a few MB.
        assert messages.asked < 50
        writer.transport.resume_reading()
        assert not (await rest(reader)).endswith(b"0\r\n\r\n")


async def test_pages_that_are_not_read_hold_no_more_than_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(connections, "LATE_SECONDS", 0.1)
    monkeypatch.setattr(answers, "MAX_UNSENT_BYTES", 2_000_000)
    messages = Messages()
    async with facing(monkeypatch, messages) as facade:
        for _ in range(10):
            _, writer = await facade.connect(LIST)
            writer.transport.pause_reading()
        await eventually(lambda: messages.asked >= 10)
        await eventually(lambda: len(facade.shared.clients) < 10)
        await eventually(lambda: sum(one.unsent_bytes() for one in facade.shared.clients) <= 2_000_000)
        assert await facade.status(LIST) == 200
