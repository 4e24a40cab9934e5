"""What the clients of a service know of it, and whether a service on a copy of its store goes on with it."""

import uuid
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

import grpc

from eliza.sessions import values
from eliza.sessions.v1 import (
    admin_service_pb2,
    agent_service_pb2,
    clock_service_pb2,
    message_service_pb2,
    session_pb2,
    session_service_pb2,
    user_data_service_pb2,
)
from eliza.sessions.v1.admin_service_pb2_grpc import AdminServiceStub
from eliza.sessions.v1.user_data_service_pb2_grpc import UserDataServiceStub
from tests.service.agents.worker import Worker, stream_agent
from tests.support.clients import create, replies, send
from tests.support.service import ECHO, Serve
from tests.support.waiting import until

SETTINGS: Final = {"TEST_CLOCK": "1", "SHUTDOWN_GRACE_SECONDS": "1", "SESSION_RETENTION_MINUTES": "60000"}
WAIT_SECONDS: Final = 60
ODD: Final = "e\u0301 \U0001f600 \u2028\t\\N \\. \U0010ffff"
_MESSAGES: Final = 7
_PAGE: Final = 3


class Seen:
    """What clients have been told. `problems`: what a service on a copy has told otherwise."""

    def __init__(self, service: Serve, sessions: int) -> None:
        """Talks to a service; what it leaves open stays open, so the service is to be killed."""
        self.problems: list[str] = []
        self.checked = 0
        self._user = str(uuid.uuid4())
        self._held = ExitStack()
        self._worked = stream_agent(service, f"worked {uuid.uuid4()}")
        self._talk(service, sessions)
        self._expired = self._expire(service)
        self._waited = self._wait(service)
        self._hold(service)
        self._sessions = {one: _get(service, one) for one in [*self._talked, self._queue]}
        self._entries = {one: _watch(service, one, count) for one, count in self._talked.items()}
        self._histories = {one: _history(service, one) for one in self._talked}
        # The first page of each, with which clients go on later.
        self._tokens = {name: read(service, "") for name, read in self._lists().items()}
        self._whole = {name: _all(read, service) for name, read in self._lists().items()}
        self._now = service.clock.GetClock(clock_service_pb2.GetClockRequest(), timeout=WAIT_SECONDS).now

    def close(self) -> None:
        """Lets the worker go."""
        self._held.close()

    def _talk(self, service: Serve, sessions: int) -> None:
        self._created: dict[str, Any] = {}
        self._sent: dict[str, Any] = {}
        self._talked: dict[str, int] = {}
        for number in range(sessions):
            creation = session_service_pb2.CreateSessionRequest(
                agent_id=ECHO,
                user_id=self._user,
                metadata=values.struct({"n": number, ODD: [None, True, 1.5, "\0"]}),
                request_id=f"create {number}",
            )
            session_id = service.sessions.CreateSession(creation, timeout=WAIT_SECONDS).session.session_id
            self._created[session_id] = creation
            for count in range(_MESSAGES):
                request = message_service_pb2.SendMessageRequest(
                    session_id=session_id,
                    content=f"{count} {ODD}",
                    metadata=values.struct({"\0": ODD}),
                    request_id=f"message {count}",
                )
                message = service.messages.SendMessage(request, timeout=WAIT_SECONDS).message
                self._sent[message.message_id] = request
            replies(service, session_id, _MESSAGES)
            self._talked[session_id] = _get(service, session_id).last_sequence

    def _wait(self, service: Serve) -> str:
        """Leaves messages of many sessions to an agent that has no worker; returns its id."""
        agent_id = stream_agent(service, f"waited for {uuid.uuid4()}")
        for _ in range(_MESSAGES):
            send(service, create(service, agent_id).session_id, "waits")
            # Those of the same instant each back end has in an order of its own.
            service.advance(ms=1)
        return agent_id

    def _hold(self, service: Serve) -> None:
        """Leaves a message in a worker's hands, and others behind it."""
        self._queue = create(service, self._worked).session_id
        for text in ("held", "second", "third"):
            send(service, self._queue, text)
        worker = self._held.enter_context(Worker(service.channel, self._worked, patience=24 * 3600))
        assert worker.next().message.content == "held"

    def _expire(self, service: Serve) -> str:
        expired = create(service, timeout_minutes=5).session_id
        send(service, expired, "before the end")
        replies(service, expired, 1)
        service.advance(minutes=6)
        until(
            lambda: _status(lambda: _get(service, expired)) == "FAILED_PRECONDITION",
            "the expiry",
            WAIT_SECONDS,
        )
        return expired

    def _lists(self) -> dict[str, Callable[[Serve, str], tuple[list[bytes], str]]]:
        """What reads a page of each list, given its token."""
        user = {"user_id": self._user}
        any_session = next(iter(self._talked))
        return {
            "sessions": lambda service, token: _page(
                service.sessions.ListSessions,
                session_service_pb2.ListSessionsRequest(page_size=_PAGE, page_token=token, **user),
                "sessions",
            ),
            "messages": lambda service, token: _page(
                service.messages.ListMessages,
                message_service_pb2.ListMessagesRequest(
                    session_id=any_session, page_size=_PAGE, page_token=token
                ),
                "messages",
            ),
            "agents": lambda service, token: _page(
                service.agents.ListAgents,
                agent_service_pb2.ListAgentsRequest(page_size=1, page_token=token),
                "agents",
            ),
            "found sessions": lambda service, token: _page(
                AdminServiceStub(service.channel).SearchSessions,
                admin_service_pb2.SearchSessionsRequest(page_size=_PAGE, page_token=token, **user),
                "sessions",
            ),
            "deliveries": lambda service, token: _page(
                AdminServiceStub(service.channel).ListDeliveries,
                admin_service_pb2.ListDeliveriesRequest(
                    session_id=any_session, page_size=_PAGE, page_token=token
                ),
                "deliveries",
            ),
            "an agent's deliveries": lambda service, token: _page(
                AdminServiceStub(service.channel).ListDeliveries,
                admin_service_pb2.ListDeliveriesRequest(
                    agent_id=self._waited, page_size=_PAGE, page_token=token
                ),
                "deliveries",
            ),
            "a user's sessions": lambda service, token: _page(
                UserDataServiceStub(service.channel).ListUserSessions,
                user_data_service_pb2.ListUserSessionsRequest(page_size=_PAGE, page_token=token, **user),
                "sessions",
            ),
        }

    def compare(self, service: Serve, active: int) -> None:
        """Compares what a service on a copy tells; the service's clock goes to where the first one stood.

        `active`: how many sessions have not expired.
        """
        service.clock.SetClock(clock_service_pb2.SetClockRequest(now=self._now), timeout=WAIT_SECONDS)
        health = service.sessions.GetServiceStatus(
            session_service_pb2.GetServiceStatusRequest(), timeout=WAIT_SECONDS
        )
        self._equal("counts", (active, 0), (health.active_sessions, health.invalid_sessions))
        for session_id, session in self._sessions.items():
            self._equal(f"session {session_id}", session, _get(service, session_id))
        for session_id, count in self._talked.items():
            self._equal(f"log of {session_id}", self._entries[session_id], _watch(service, session_id, count))
            after = self._entries[session_id][: count // 2]
            rest = _watch(service, session_id, count - len(after), after=len(after))
            self._equal(f"rest of the log of {session_id}", self._entries[session_id], after + rest)
            self._equal(
                f"messages of {session_id}", self._histories[session_id], _history(service, session_id)
            )
        for name, read in self._lists().items():
            first, token = self._tokens[name]
            self._equal(f"list of {name}", self._whole[name], _all(read, service))
            self._equal(
                f"list of {name} from its token", self._whole[name], first + _all(read, service, token)
            )
        self._equal("expired session", "FAILED_PRECONDITION", _status(lambda: _get(service, self._expired)))

    def go_on(self, service: Serve) -> None:
        """Has the clients go on: retries, conditions, the worker's queue."""
        for session_id, creation in self._created.items():
            again = service.sessions.CreateSession(creation, timeout=WAIT_SECONDS)
            self._equal(
                f"create {session_id}", (True, session_id), (again.replayed, again.session.session_id)
            )
        for message_id, request in self._sent.items():
            repeated = service.messages.SendMessage(request, timeout=WAIT_SECONDS)
            self._equal(
                f"send {message_id}", (True, message_id), (repeated.replayed, repeated.message.message_id)
            )
        one = next(iter(self._talked))
        etag = self._sessions[one].etag
        renew = session_service_pb2.RenewSessionRequest(session_id=one, etag=etag)
        self._equal(
            "renew by etag", "OK", _status(lambda: service.sessions.RenewSession(renew, timeout=WAIT_SECONDS))
        )
        self._equal(
            "renew by the same etag again",
            "ABORTED",
            _status(lambda: service.sessions.RenewSession(renew, timeout=WAIT_SECONDS)),
        )
        with Worker(service.channel, self._worked, max_deliveries=1, patience=WAIT_SECONDS) as worker:
            for text in ("held", "second", "third"):
                delivery = worker.next()
                self._equal("delivery", text, delivery.message.content)
                worker.answer(delivery, f"re {text}")
        told = [message.content for message in replies(service, self._queue, 3)]
        self._equal("replies", ["re held", "re second", "re third"], told)
        send(service, one, "after the move")
        replies(service, one, _MESSAGES + 1)

    def _equal(self, what: str, wanted: object, found: object) -> None:
        self.checked += 1
        if wanted != found:
            self.problems.append(f"{what}: {str(wanted)[:300]} before, {str(found)[:300]} on the copy")


def _get(service: Serve, session_id: str) -> session_pb2.Session:
    request = session_service_pb2.GetSessionRequest(session_id=session_id)
    session: session_pb2.Session = service.sessions.GetSession(request, timeout=WAIT_SECONDS).session
    return session


def _watch(service: Serve, session_id: str, count: int, *, after: int = 0) -> list[bytes]:
    """So many entries of a log behind one."""
    request = session_service_pb2.WatchSessionRequest(session_id=session_id, after_sequence=after)
    stream = service.sessions.WatchSession(request, timeout=WAIT_SECONDS)
    found: list[bytes] = []
    for event in stream:
        if event.HasField("entry"):
            found.append(event.entry.SerializeToString(deterministic=True))
        if len(found) == count:
            break
    stream.cancel()
    return found


def _history(service: Serve, session_id: str) -> list[bytes]:
    """All messages, newest first, by cursors."""
    found: list[bytes] = []
    request = message_service_pb2.ListMessagesRequest(session_id=session_id, page_size=4)
    while True:
        page = service.messages.ListMessages(request, timeout=WAIT_SECONDS)
        found += [one.SerializeToString(deterministic=True) for one in page.messages]
        if not page.has_more:
            return found
        request.before.CopyFrom(page.cursor_before)


def _page(method: Any, request: Any, field: str) -> tuple[list[bytes], str]:
    page = method(request, timeout=WAIT_SECONDS)
    return [one.SerializeToString(deterministic=True) for one in getattr(page, field)], page.next_page_token


def _all(
    read: Callable[[Serve, str], tuple[list[bytes], str]], service: Serve, token: str = ""
) -> list[bytes]:
    """All of a list, or the rest behind a token."""
    found, token = read(service, token)
    while token:
        more, token = read(service, token)
        found += more
    return found


def _status(call: Callable[[], object]) -> str:
    try:
        call()
    except grpc.RpcError as error:
        name: str = error.code().name
        return name
    return "OK"
