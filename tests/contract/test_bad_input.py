"""Bad input over REST: no fault of the service, an error body that keeps to the contract, and nothing half
done.
"""

from collections.abc import Iterator

import pytest

from tests.contract.answers import read_error
from tests.contract.bad_input import BAD
from tests.contract.bad_pieces import ANY, FINE, NO_ANSWER, SID, USER, Bad
from tests.contract.drivers import PATIENCE_SECONDS
from tests.contract.raw_http import exchange
from tests.contract.untouched import Untouched, standing, untouched
from tests.support.service import Serve


@pytest.fixture(scope="module")
def sessions() -> Untouched:
    return Untouched()


@pytest.fixture(scope="module", autouse=True)
def _nothing_unforeseen(service: Serve, two_processes: Serve) -> Iterator[None]:
    """Whatever these tests send, the services' logs get no stack trace of it."""
    before = [running.log().count("Traceback") for running in (service, two_processes)]
    yield
    assert [running.log().count("Traceback") for running in (service, two_processes)] == before


@pytest.mark.parametrize(
    "piece", [pytest.param(piece, id=f"{number}: {piece.name[:60]}") for number, piece in enumerate(BAD)]
)
def test_bad_input_is_refused_and_changes_nothing(
    rest_service: Serve, piece: Bad, sessions: Untouched
) -> None:
    service, made = rest_service, sessions.take(rest_service)
    session, user = made.session_id, made.user_id
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
        assert standing(service, made) == untouched(made)
        sessions.keep(service, made)
    else:
        assert (
            service.http.get(f"{service.url}/health", timeout=PATIENCE_SECONDS).json()["status"] == "healthy"
        )


def test_the_pieces_are_many_and_distinct() -> None:
    assert len({(piece.pieces, piece.half_close) for piece in BAD}) >= 200
    assert len({piece.name for piece in BAD}) == len(BAD)
