"""`watch` of the Python clients: what it yields, how it ends, and that it goes on after a lost connection."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eliza_sessions_client import Client, LogEntry, ReplyAborted, ReplyChunk, SessionDeleted, Timeouts, errors
from tests.service.agents.worker import Worker, stream_agent
from tests.service.python_client.conftest import Connect
from tests.support.realtime.programs import free_address
from tests.support.service import ECHO, UNKNOWN, USER, Serve, Start
from tests.support.waiting import until


class Watching:
    """A watch in a thread of its own: `seen` grows, `ended` tells how it ended."""

    def __init__(self, events: Any) -> None:
        self.seen: list[Any] = []
        self.ended: list[BaseException | None] = []
        self._thread = threading.Thread(target=self._watch, args=(events,), daemon=True)
        self._thread.start()

    def _watch(self, events: Any) -> None:
        try:
            for event in events:
                self.seen.append(event)
        except Exception as error:  # noqa: BLE001 - a test looks at it
            self.ended.append(error)
        else:
            self.ended.append(None)

    def entries(self) -> list[LogEntry]:
        return [event for event in self.seen if isinstance(event, LogEntry)]

    def wait_for(self, count: int) -> None:
        until(lambda: len(self.entries()) >= count, f"{count} entries")

    def end(self) -> BaseException | None:
        until(lambda: self.ended, "the end of the watch")
        return self.ended[0]


def test_it_ends_with_the_removal_of_the_session(service: Serve, connect: Connect) -> None:
    client = connect(service.grpc)
    session_id = client.create(ECHO, USER).session_id
    client.send_and_wait(session_id, "Hello!")
    watching = Watching(client.watch(session_id))
    watching.wait_for(2)
    client.delete(session_id)
    assert watching.end() is None
    assert [entry.message.content for entry in watching.entries()] == ["Hello!", "Hello!"]
    assert isinstance(watching.seen[-1], SessionDeleted)


def test_it_ends_with_the_expiry(service: Serve, connect: Connect) -> None:
    client = connect(service.grpc)
    session_id = client.create(ECHO, USER, timeouts=Timeouts(timeout_minutes=5)).session_id
    watching = Watching(client.watch(session_id))
    service.advance(minutes=10)
    assert watching.end() is None
    assert watching.entries()[-1].HasField("expiry")


def test_a_session_that_is_not_there_is_an_error(service: Serve, connect: Connect) -> None:
    with pytest.raises(errors.SessionNotFoundError):
        next(connect(service.grpc).watch(UNKNOWN))


def test_it_begins_behind_a_sequence(service: Serve, connect: Connect) -> None:
    client = connect(service.grpc)
    session_id = client.create(ECHO, USER).session_id
    client.send_and_wait(session_id, "one")
    client.send_and_wait(session_id, "two")
    events = client.watch(session_id, after=2)
    assert [next(events).sequence for _ in range(2)] == [3, 4]


def test_closing_the_client_ends_it(service: Serve, connect: Connect) -> None:
    client = connect(service.grpc)
    session_id = client.create(ECHO, USER).session_id
    client.send_and_wait(session_id, "Hello!")
    watching = Watching(client.watch(session_id))
    watching.wait_for(2)
    client.close()
    assert watching.end() is None


Both = Callable[[str], list[Client]]


def test_a_session_that_was_removed_while_the_service_was_away_is_gone(
    start: Start, connect_both: Both, tmp_path: Path
) -> None:
    address = free_address()
    service = start("--no-rest", GRPC_ADDRESS=address)
    clients = connect_both(address)
    session_id = clients[0].create(ECHO, USER).session_id
    clients[0].send_and_wait(session_id, "Hello!")
    watches = [Watching(client.watch(session_id)) for client in clients]
    for watching in watches:
        watching.wait_for(2)
    service.kill()
    # With another store, which does not have it.
    start("--no-rest", directory=tmp_path / "other", GRPC_ADDRESS=address)
    for watching in watches:
        assert watching.end() is None
        assert watching.seen[-1] == SessionDeleted(session_id=session_id)


def test_it_goes_on_after_a_kill_with_no_gap_and_no_repeat(start: Start, connect_both: Both) -> None:
    """So do the pieces of a reply, which are void and come anew."""
    address = free_address()
    service = start("--no-rest", GRPC_ADDRESS=address)
    clients, agent_id = connect_both(address), stream_agent(service)
    session_id = clients[0].create(agent_id, USER).session_id
    watches = [Watching(client.watch(session_id)) for client in clients]
    clients[0].send(session_id, "Hello!")
    with Worker(service.channel, agent_id) as worker:
        first = worker.expect("delivery")
        worker.chunk(first, "Well")
        for watching in watches:
            until(lambda one=watching: any(isinstance(event, ReplyChunk) for event in one.seen), "the piece")
        service.kill()
    service = start("--no-rest", GRPC_ADDRESS=address)
    with Worker(service.channel, agent_id) as worker:
        worker.answer(worker.expect("delivery"), "Well, hello!")
    for watching in watches:
        watching.wait_for(2)
    clients[1].delete(session_id)
    for watching in watches:
        assert watching.end() is None
        assert [entry.sequence for entry in watching.entries()] == [1, 2]
        assert watching.entries()[-1].message.content == "Well, hello!"
        aborted = [event.message_id for event in watching.seen if isinstance(event, ReplyAborted)]
        assert aborted == [first.reply_message_id]
