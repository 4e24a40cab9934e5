"""Changes of a session that a watch hears of, and what it heard."""

from eliza.sessions.v1 import session_service_pb2
from tests.support.clients import create, replies, send
from tests.support.service import Serve

MINUTE = 60_000


def talked(service: Serve, messages: int = 3, **timeout: float | bool) -> str:
    """A session with so many messages and their replies."""
    session_id = create(service, **timeout).session_id
    for number in range(messages):
        send(service, session_id, f"message {number}")
        replies(service, session_id, number + 1)
    return session_id


def delete(service: Serve, session_id: str) -> None:
    service.sessions.DeleteSession(
        session_service_pb2.DeleteSessionRequest(session_id=session_id), timeout=10
    )
