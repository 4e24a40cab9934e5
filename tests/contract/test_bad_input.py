"""Bad input over REST: no fault of the service, an error body that keeps to the contract, and nothing half
done.
"""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.answers import read_error
from tests.contract.bad_input import ANY, BAD, FINE, NO_ANSWER, SID, USER, Bad
from tests.contract.drivers import PATIENCE_SECONDS, now_ms
from tests.contract.raw_http import exchange
from tests.support.service import Serve


def standing(service: Serve, session: str, user: str) -> Any:
    """What a piece could have changed: the user's sessions, and the messages of the one there is."""
    listed = service.http.get(service.url, params={"userId": user}, timeout=PATIENCE_SECONDS)
    history = service.http.get(f"{service.url}/{session}/messages", timeout=PATIENCE_SECONDS)
    assert (listed.status_code, history.status_code) == (200, 200)
    return listed.json()["sessions"], history.json(), now_ms(service)


@pytest.fixture(scope="module", autouse=True)
def _nothing_unforeseen(service: Serve) -> Iterator[None]:
    """Whatever these tests send, the service's log gets no stack trace of it."""
    before = len(service.log())
    yield
    assert "Traceback" not in service.log()[before:]


@pytest.mark.parametrize(
    "piece", [pytest.param(piece, id=f"{number}: {piece.name[:60]}") for number, piece in enumerate(BAD)]
)
def test_bad_input(service: Serve, piece: Bad) -> None:
    user = str(uuid.uuid4())
    session = service.create(userId=user)["sessionId"]
    before = standing(service, session, user)
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
