"""SearchSessions over gRPC: its filters, its pages, and what it tells of a session."""

import uuid

import pytest

from eliza.sessions.v1 import admin_service_pb2 as pb
from eliza.sessions.v1 import clock_service_pb2, json_form_pb2, session_pb2, session_service_pb2
from eliza.sessions.v1.admin_service_pb2 import SESSION_STATE_EXPIRED, SESSION_STATE_LIVE
from tests.service.admin.asking import SECONDS, admin, search
from tests.service.agents.worker import stream_agent
from tests.support.clients import fails, send
from tests.support.service import ECHO, Serve
from tests.support.waiting import until


def now_ms(service: Serve) -> int:
    clock = service.clock.GetClock(clock_service_pb2.GetClockRequest(), timeout=SECONDS)
    return clock.now.ToMilliseconds()


def make(service: Serve, user_id: str, agent_id: str = ECHO, minutes: float = 30) -> session_pb2.Session:
    request = session_service_pb2.CreateSessionRequest(
        agent_id=agent_id, user_id=user_id, timeout_config={"timeout_minutes": minutes}
    )
    request.metadata.update({"n": 1})
    service.advance(ms=1)
    return service.sessions.CreateSession(request, timeout=SECONDS).session


def ids(found: list[pb.FoundSession]) -> list[str]:
    return [one.session.session_id for one in found]


def test_live_and_expired_sessions_are_found_the_newest_first(service: Serve) -> None:
    user = str(uuid.uuid4())
    agent_id = stream_agent(service)
    short = [make(service, user, minutes=5).session_id for _ in range(3)]
    long = [make(service, user, agent_id).session_id for _ in range(3)]
    send(service, long[0], "waits")
    service.advance(minutes=6)
    expired = {"user_id": user, "state": SESSION_STATE_EXPIRED}
    until(lambda: ids(search(service, **expired)) == short[::-1], "the expiries to be written")
    assert ids(search(service, user_id=user.upper())) == [*long[::-1], *short[::-1]]
    assert ids(search(service, user_id=user, state=SESSION_STATE_LIVE)) == long[::-1]
    assert ids(search(service, user_id=user, agent_id=ECHO)) == short[::-1]
    assert ids(search(service, agent_id=agent_id)) == long[::-1]
    for size in (1, 2, 5, 6):
        assert ids(search(service, user_id=user, page_size=size)) == [*long[::-1], *short[::-1]]
    live, ended = search(service, user_id=user)[2], search(service, user_id=user)[3]
    assert (live.is_expired, live.open_deliveries, live.HasField("ended_at")) == (False, 1, False)
    assert live.session.metadata == {"n": 1}
    assert (ended.is_expired, ended.ended_at) == (True, ended.session.expires_at)
    text = search(service, user_id=user, json_form=json_form_pb2.JSON_FORM_TEXT)[0].session
    assert (text.metadata_json, dict(text.metadata)) == ('{"n":1}', {})


def test_sessions_are_found_by_when_they_were_created(service: Serve) -> None:
    user = str(uuid.uuid4())
    made = [make(service, user) for _ in range(4)]
    first, second, _, last = (one.created_at for one in made)
    found = search(service, user_id=user, created_after=second, created_before=last)
    assert ids(found) == [made[2].session_id, made[1].session_id]
    assert ids(search(service, user_id=user, created_before=first)) == []


def test_sessions_are_found_by_the_beginning_of_their_ids(service: Serve) -> None:
    one = make(service, str(uuid.uuid4())).session_id
    for length in (36, 20, 8):
        assert one in ids(search(service, session_id_prefix=one[:length].upper()))
    other = ("0" if one[0] != "0" else "1") + one[1:]
    assert search(service, session_id_prefix=other) == []
    assert search(service, session_id_prefix=one, user_id=str(uuid.uuid4())) == []


def test_a_page_token_is_good_for_the_same_filters_only(service: Serve) -> None:
    user = str(uuid.uuid4())
    for _ in range(2):
        make(service, user)
    first = admin(service).SearchSessions(
        pb.SearchSessionsRequest(user_id=user, page_size=1), timeout=SECONDS
    )
    token = first.next_page_token
    for others in ({}, {"user_id": user, "state": SESSION_STATE_LIVE}, {"user_id": str(uuid.uuid4())}):
        request = pb.SearchSessionsRequest(page_token=token, **others)
        details = fails(
            lambda request=request: admin(service).SearchSessions(request, timeout=SECONDS),
            "INVALID_PAGINATION",
        )
        assert details["parameter"] == "page_token"


def test_a_page_has_a_hundred_sessions_at_most(service: Serve) -> None:
    user = str(uuid.uuid4())
    for _ in range(101):
        make(service, user)
    for asked, given in ((0, 50), (100, 100), (1000, 100)):
        request = pb.SearchSessionsRequest(user_id=user, page_size=asked)
        assert len(admin(service).SearchSessions(request, timeout=SECONDS).sessions) == given


@pytest.mark.parametrize("beginning", ["x", "%", "a_", "é", "a" * 37])
def test_what_no_id_begins_with_is_refused(service: Serve, beginning: str) -> None:
    request = pb.SearchSessionsRequest(session_id_prefix=beginning)
    details = fails(lambda: admin(service).SearchSessions(request, timeout=SECONDS), "INVALID_FIELD")
    assert (details["field"], details["value"]) == ("session_id_prefix", beginning)
