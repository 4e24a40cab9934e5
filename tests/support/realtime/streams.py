"""What the tests of watches share: streams as a client reads them, one response at a time."""

import queue
from collections.abc import Iterator

import grpc

from eliza.sessions.v1 import log_pb2, session_service_pb2
from tests.support.service import Serve
from tests.support.waiting import PATIENCE_SECONDS


class Watching:
    """A WatchSession. `event` reads what comes next; heartbeats are passed over."""

    def __init__(self, service: Serve, session_id: str, after: int = 0) -> None:
        request = session_service_pb2.WatchSessionRequest(session_id=session_id, after_sequence=after)
        self.call = service.sessions.WatchSession(request, timeout=PATIENCE_SECONDS)

    def event(self) -> log_pb2.LogEntry | log_pb2.ReplyChunk:
        while True:
            response = next(self.call)
            kind = response.WhichOneof("event")
            if kind != "heartbeat":
                return getattr(response, kind)

    def entry(self) -> log_pb2.LogEntry:
        """The next entry; chunks are passed over."""
        while True:
            event = self.event()
            if isinstance(event, log_pb2.LogEntry):
                return event

    def entries(self, count: int) -> list[log_pb2.LogEntry]:
        return [self.entry() for _ in range(count)]

    def rest(self) -> list[log_pb2.LogEntry]:
        """All entries until the stream ends."""
        return [response.entry for response in self.call if response.HasField("entry")]

    def close(self) -> None:
        self.call.cancel()


class ManyWatched:
    """A WatchSessions.

    `event` reads what comes next as its kind and its value; heartbeats are passed over.
    """

    def __init__(self, service: Serve) -> None:
        self._changes: queue.SimpleQueue[session_service_pb2.WatchSessionsRequest | None] = (
            queue.SimpleQueue()
        )
        self.call = service.sessions.WatchSessions(self._requests(), timeout=PATIENCE_SECONDS)

    def _requests(self) -> Iterator[session_service_pb2.WatchSessionsRequest]:
        while (change := self._changes.get()) is not None:
            yield change

    def ask(self, change: session_service_pb2.WatchSessionsRequest) -> None:
        self._changes.put(change)

    def join(self, session_id: str, after: int | None = None) -> None:
        self.ask(
            session_service_pb2.WatchSessionsRequest(
                join=session_service_pb2.WatchSessionsRequest.Join(
                    session_id=session_id, after_sequence=after
                )
            )
        )

    def leave(self, session_id: str) -> None:
        self.ask(
            session_service_pb2.WatchSessionsRequest(
                leave=session_service_pb2.WatchSessionsRequest.Leave(session_id=session_id)
            )
        )

    def half_close(self) -> None:
        self._changes.put(None)

    def event(self) -> tuple[str, object]:
        while True:
            response = next(self.call)
            kind = response.WhichOneof("event")
            if kind not in ("heartbeat", "chunk"):
                return kind, getattr(response, kind)

    def expect(self, kind: str) -> object:
        """The next event, which must be of this kind."""
        found, value = self.event()
        assert found == kind, (found, value)
        return value

    def close(self) -> None:
        self._changes.put(None)
        self.call.cancel()


def ends(stream: Watching | ManyWatched) -> None:
    """Asserts that the stream has nothing more and ended well."""
    left = [
        response for response in stream.call if response.WhichOneof("event") not in ("heartbeat", "chunk")
    ]
    assert left == []
    assert stream.call.code() == grpc.StatusCode.OK
