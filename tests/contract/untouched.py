"""Sessions that bad input must leave as they are."""

import uuid
from typing import Any

from eliza.sessions.v1 import message_service_pb2, session_service_pb2
from eliza.sessions.v1.session_pb2 import Session
from tests.contract.drivers import PATIENCE_SECONDS
from tests.contract.grpc_driver import now_ms
from tests.support.service import ECHO, Serve


def standing(service: Serve, session: Session) -> Any:
    """What a piece could have changed: the user's sessions, the messages of the one there is, the clock."""
    sessions = service.sessions.ListSessions(
        session_service_pb2.ListSessionsRequest(user_id=session.user_id), timeout=PATIENCE_SECONDS
    ).sessions
    history = service.messages.ListMessages(
        message_service_pb2.ListMessagesRequest(session_id=session.session_id), timeout=PATIENCE_SECONDS
    ).messages
    return list(sessions), list(history), now_ms(service)


def untouched(session: Session) -> Any:
    """What `standing` says of a new session: the clock stands at its creation."""
    return [session], [], session.created_at.ToMilliseconds()


class Untouched:
    """For each service a session that was found untouched, so that the next piece needs no new one.

    Only for pieces that come one after the other: others may move the clock.
    """

    def __init__(self) -> None:
        self._sessions: dict[Serve, Session] = {}

    def take(self, service: Serve, agent_id: str = ECHO) -> Session:
        """That session, or a new one of a new user. The next piece has another one, unless it is kept."""
        if agent_id == ECHO and (session := self._sessions.pop(service, None)):
            return session
        wanted = session_service_pb2.CreateSessionRequest(agent_id=agent_id, user_id=str(uuid.uuid4()))
        return service.sessions.CreateSession(wanted, timeout=PATIENCE_SECONDS).session

    def keep(self, service: Serve, session: Session) -> None:
        """Keeps a session of the echo agent, which was found untouched, for the next piece."""
        self._sessions[service] = session
