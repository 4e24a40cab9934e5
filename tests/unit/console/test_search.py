"""The list of sessions: what its address asks for, how far it is read, and what it shows."""

from typing import Any

import pytest

from eliza.sessions import values
from eliza.sessions.v1 import admin_service_pb2 as pb
from eliza.sessions.v1.agent_pb2 import Agent
from eliza.sessions.v1.agent_service_pb2 import ListAgentsRequest, ListAgentsResponse
from eliza.sessions.v1.json_form_pb2 import JSON_FORM_TEXT
from eliza.sessions.v1.session_pb2 import Session
from rest_facade.console.search import MAX_CALLS, PAGE_SIZE
from tests.unit.console.asking import Asker, refuse
from tests.unit.console.test_parts import EVIL, NOW

USER = "11111111-1111-4111-8111-111111111111"
AGENT = "22222222-2222-4222-8222-222222222222"
PART = "/console/parts/sessions"


def found(number: int, **facts: Any) -> pb.FoundSession:
    session = Session(
        session_id=f"33333333-3333-4333-8333-{number:012}",
        user_id=USER,
        agent_id=AGENT,
        created_at=values.timestamp(NOW),
        last_activity=values.timestamp(NOW),
        time_remaining_ms=90_000,
        last_sequence=7,
    )
    return pb.FoundSession(session=session, **facts)


class Server:
    """Answers with pages of sessions, one after the other."""

    def __init__(self, *pages: pb.SearchSessionsResponse) -> None:
        self.pages = list(pages)
        self.searches: list[pb.SearchSessionsRequest] = []
        self.lists = 0

    def __call__(self, request: Any, _metadata: Any) -> Any:
        if isinstance(request, ListAgentsRequest):
            self.lists += 1
            return ListAgentsResponse(agents=[Agent(agent_id=AGENT, name=EVIL)])
        copy = pb.SearchSessionsRequest()
        copy.CopyFrom(request)
        self.searches.append(copy)
        return self.pages.pop(0)


def page(*sessions: pb.FoundSession, token: str = "") -> pb.SearchSessionsResponse:
    return pb.SearchSessionsResponse(sessions=sessions, next_page_token=token)


def test_the_filters_of_the_address_are_those_of_the_call() -> None:
    server = Server(page(found(1)))
    created = "from=2027-01-15T08:00&to=2027-01-15T10:00%2B01:00"
    query = f"user={USER}&agent={AGENT}&state=expired&{created}&id=3333&page=t"
    assert Asker(server)(f"{PART}?{query}").status_code == 200
    assert server.searches == [
        pb.SearchSessionsRequest(
            page_size=PAGE_SIZE,
            page_token="t",
            user_id=USER,
            agent_id=AGENT,
            state=pb.SESSION_STATE_EXPIRED,
            created_after=values.timestamp(NOW),
            created_before=values.timestamp(NOW + 3_600_000),
            session_id_prefix="3333",
            json_form=JSON_FORM_TEXT,
        )
    ]


def test_without_filters_all_are_asked_for() -> None:
    server = Server(page())
    text = Asker(server)(f"{PART}?user=&state=&unknown=x").text
    assert server.searches == [pb.SearchSessionsRequest(page_size=PAGE_SIZE, json_form=JSON_FORM_TEXT)]
    assert "There is no session yet" in text
    assert server.lists == 0, "no name is needed"


@pytest.mark.parametrize(
    ("query", "field"), [("state=dead", "state"), ("from=yesterday", "from"), ("to=99999-01-01", "to")]
)
def test_a_filter_that_is_none_is_named(query: str, field: str) -> None:
    answer = Asker(Server())(f"{PART}?{query}")
    assert answer.status_code == 400
    assert f"<dt>field</dt><dd>{field}</dd>" in answer.text


def test_what_the_server_has_against_a_filter_is_shown() -> None:
    answer = Asker(refuse("INVALID_UUID", "user_id is not a UUID", {"field": "user_id", "value": "x"}))(
        f"{PART}?user=x"
    )
    assert (answer.status_code, "INVALID_UUID" in answer.text) == (400, True)


def test_short_pages_are_filled_up_and_the_next_one_has_a_link() -> None:
    server = Server(
        page(found(1), token="a"), page(token="b"), page(*(found(n) for n in range(2, 51)), token="c")
    )
    text = Asker(server)(f"{PART}?state=live&user={USER}").text
    assert [(one.page_token, one.page_size) for one in server.searches] == [("", 50), ("a", 49), ("b", 49)]
    assert text.count('data-name="Session"') == 50
    assert f'href="console/sessions?user={USER}&amp;state=live&amp;page=c"' in text
    assert "Newest" not in text


def test_a_search_that_finds_little_ends_and_can_be_gone_on_with() -> None:
    server = Server(*(page(token=str(number)) for number in range(MAX_CALLS)))
    text = Asker(server)(f"{PART}?user={USER}&page=x").text
    assert len(server.searches) == MAX_CALLS
    assert "There are older ones" in text
    assert f'href="console/sessions?user={USER}&amp;page={MAX_CALLS - 1}"' in text
    assert f'href="console/sessions?user={USER}"' in text


def test_no_match_is_told_from_no_session() -> None:
    assert "No session matches" in Asker(Server(page()))(f"{PART}?id=0").text


def test_a_session_is_shown_as_it_is_and_nothing_of_it_is_markup() -> None:
    live, ended = (
        found(1, open_deliveries=3, failed_deliveries=2),
        found(2, is_expired=True, ended_at=values.timestamp(NOW)),
    )
    expiring = found(3)
    expiring.session.is_near_expiration = True
    text = Asker(Server(page(live, ended, expiring)))(PART).text
    assert EVIL not in text
    assert "&lt;script&gt;" in text
    for badge in ("live", "expired", "expiring", "2"):
        assert f">{badge}</span>" in text, badge
    assert text.count("in 1 min 30 s") == 2
    assert 'href="console/sessions/33333333-3333-4333-8333-000000000001"' in text


def test_who_may_not_search_is_told_so() -> None:
    answer = Asker(refuse("PERMISSION_DENIED"))(PART)
    assert (answer.status_code, "may not see this" in answer.text) == (403, True)
