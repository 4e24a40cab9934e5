"""Bad input over REST: no fault of the service, an error body that keeps to the contract, and nothing half
done.
"""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from eliza.sessions.v1 import message_service_pb2, session_service_pb2
from tests.contract.answers import read_error
from tests.contract.bad_input import BAD
from tests.contract.bad_pieces import ANY, FINE, NO_ANSWER, SID, USER, Bad
from tests.contract.drivers import PATIENCE_SECONDS
from tests.contract.grpc_driver import now_ms
from tests.contract.raw_http import exchange
from tests.support.service import ECHO, Serve


def standing(service: Serve, session: str, user: str) -> Any:
    """What a piece could have changed: the user's sessions, the messages of the one there is, the clock."""
    sessions = service.sessions.ListSessions(
        session_service_pb2.ListSessionsRequest(user_id=user), timeout=PATIENCE_SECONDS
    ).sessions
    history = service.messages.ListMessages(
        message_service_pb2.ListMessagesRequest(session_id=session), timeout=PATIENCE_SECONDS
    ).messages
    return list(sessions), list(history), now_ms(service)


@pytest.fixture(scope="module", autouse=True)
def _nothing_unforeseen(service: Serve, two_processes: Serve) -> Iterator[None]:
    """Whatever these tests send, the services' logs get no stack trace of it."""
    before = [running.log().count("Traceback") for running in (service, two_processes)]
    yield
    assert [running.log().count("Traceback") for running in (service, two_processes)] == before


@pytest.mark.parametrize(
    "piece", [pytest.param(piece, id=f"{number}: {piece.name[:60]}") for number, piece in enumerate(BAD)]
)
def test_bad_input_is_refused_and_changes_nothing(rest_service: Serve, piece: Bad) -> None:
    service, user = rest_service, str(uuid.uuid4())
    made = service.sessions.CreateSession(
        session_service_pb2.CreateSessionRequest(agent_id=ECHO, user_id=user), timeout=PATIENCE_SECONDS
    ).session
    session = made.session_id
    # What `standing` would say: the clock stands at the session's creation.
    before = [made], [], made.created_at.ToMilliseconds()
    names = ((SID, session), (SID.upper(), session.upper()), (SID[1:], session[1:]), (USER, user))
    pieces = list(piece.pieces)
    for placeholder, name in names:
        pieces = [content.replace(placeholder.encode(), name.encode()) for content in pieces]
    answer = exchange(service.rest, pieces, method=piece.method, half_close=piece.half_close)
    if piece.outcome == NO_ANSWER:
        assert answer is None
    else:
        assert answer is not None
        assert answer.status < 500, answer
        if piece.outcome == FINE:
            assert answer.status < 300, answer
        if answer.status >= 400:
            code = read_error(answer.status, answer.headers, answer.content).code
            assert piece.outcome == ANY or code in piece.outcome.split(), (code, answer.content)
        else:
            assert piece.outcome in (FINE, ANY), answer
    if answer is None or answer.status >= 400:
        assert standing(service, session, user) == before
    else:
        assert (
            service.http.get(f"{service.url}/health", timeout=PATIENCE_SECONDS).json()["status"] == "healthy"
        )


def test_the_pieces_are_many_and_distinct() -> None:
    assert len({(piece.pieces, piece.half_close) for piece in BAD}) >= 200
    assert len({piece.name for piece in BAD}) == len(BAD)
