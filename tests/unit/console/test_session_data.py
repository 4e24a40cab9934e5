"""One session: its facts, the pages of its log, its deliveries, and who may deliver a message anew."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

import pytest

from eliza.sessions import values
from eliza.sessions.v1 import admin_service_pb2 as pb
from eliza.sessions.v1.agent_pb2 import Agent, DeliveryFailure
from eliza.sessions.v1.agent_service_pb2 import GetAgentRequest, GetAgentResponse
from eliza.sessions.v1.message_service_pb2 import ExportTranscriptRequest
from eliza.sessions.v1.session_pb2 import Session
from rest_facade.console.session import PAGE_BYTES, PAGE_SIZE
from tests.unit.console.asking import Answer, Asker, Told, refusal, refuse
from tests.unit.console.test_parts import EVIL, NOW

ID = "33333333-3333-4333-8333-333333333333"
MESSAGE = "44444444-4444-4444-8444-444444444444"
DATA = f"/console/data/sessions/{ID}"
OWN = {"HX_Request": "true"}


def make_found(last: int = 3, **facts: Any) -> pb.FoundSession:
    session = Session(
        session_id=ID, agent_id="a", user_id="u", metadata_json='{"a":null}', last_sequence=last
    )
    return pb.FoundSession(session=session, **facts)


class Server:
    """Knows one session, and its agent where it has a name."""

    def __init__(self, found: pb.FoundSession | None, agent_name: str = "") -> None:
        self.found = found
        self.agent_name = agent_name
        self.requests: list[Any] = []

    def __call__(self, request: Any, _metadata: Any) -> Any:
        self.requests.append(request)
        if isinstance(request, GetAgentRequest):
            if not self.agent_name:
                raise refusal("AGENT_NOT_FOUND", "No such agent", {"agentId": "a"})
            return GetAgentResponse(agent=Agent(name=self.agent_name))
        assert isinstance(request, pb.SearchSessionsRequest)
        assert (request.session_id_prefix, request.page_size) == (ID, 1)
        return pb.SearchSessionsResponse(sessions=[self.found] if self.found else [])


def test_a_session_is_told_as_rest_tells_it_with_what_it_does_not_know() -> None:
    body = Asker(Server(make_found(open_deliveries=1), EVIL))(DATA).json
    assert body["session"]["sessionId"] == ID
    assert body["session"]["metadata"] == {"a": None}
    assert (body["agentName"], body["isExpired"], body["endedAt"]) == (EVIL, False, None)
    assert (body["lastSequence"], body["openDeliveries"], body["failedDeliveries"]) == (3, 1, 0)


def test_an_expired_session_whose_agent_is_gone_is_told_too() -> None:
    server = Server(make_found(is_expired=True, ended_at=values.timestamp(NOW)))
    body = Asker(server)(DATA).json
    assert (body["agentName"], body["isExpired"], body["endedAt"]) == (None, True, "2027-01-15T08:00:00.000Z")


@pytest.mark.parametrize("session_id", ["x", ID[:-1], ID + "0", "%00", EVIL.replace("/", "")])
def test_an_id_that_is_none_is_not_found_and_not_asked_for(session_id: str) -> None:
    server = Server(make_found())
    answer = Asker(server)(f"/console/data/sessions/{session_id}")
    assert (answer.status_code, answer.json["code"]) == (404, "SESSION_NOT_FOUND")
    assert server.requests == []


def test_a_session_that_is_not_there_is_not_found() -> None:
    assert Asker(Server(None))(DATA).json["code"] == "SESSION_NOT_FOUND"


# The log.


class Logged(Told):
    """The way to a server that has a log: `read` counts the lines that were read of it."""

    read = 0
    contents: ClassVar[dict[int, str]] = {}
    requests: ClassVar[list[ExportTranscriptRequest]] = []
    loop: ClassVar[asyncio.Runner]

    def export_transcript(self, request: ExportTranscriptRequest, _metadata: Any) -> Any:
        Logged.requests.append(request)
        return _Call(request.after_sequence)

    def wait(self, answer: Any) -> Any:
        return self.loop.run(_await(answer))

    def iterate(self, items: AsyncIterator[bytes]) -> Iterator[bytes]:
        while (item := self.loop.run(_next(items))) is not None:
            yield item


async def _await(answer: Any) -> Any:
    return await answer


async def _next(items: AsyncIterator[bytes]) -> bytes | None:
    return await anext(items, None)


class _Call:
    """The stream of a transcript, two lines a part."""

    def __init__(self, after: int) -> None:
        self._lines = [{"record": "session", "session": {}}]
        for sequence in sorted(Logged.contents):
            if sequence > after:
                text = Logged.contents[sequence]
                entry = {"sequence": str(sequence), "message": {"content": text}}
                self._lines.append({"record": "entry", "entry": entry})

    async def read(self) -> Any:
        if not self._lines:
            return None
        part = [self._lines.pop(0) for _ in range(min(2, len(self._lines)))]
        Logged.read += len(part)
        return pb_lines(part)

    def cancel(self) -> None:
        self._lines.clear()


def pb_lines(records: list[Any]) -> Any:
    from eliza.sessions.v1.message_service_pb2 import ExportTranscriptResponse

    return ExportTranscriptResponse(lines=b"".join(json.dumps(one).encode() + b"\n" for one in records))


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asker]:
    monkeypatch.setattr(Logged, "contents", {n: f"text {n}" for n in range(1, 1001)})
    monkeypatch.setattr(Logged, "read", 0)
    monkeypatch.setattr(Logged, "requests", [])
    monkeypatch.setattr("rest_facade.upstream.transcript.read", lambda call: call.read())
    with asyncio.Runner() as loop:
        monkeypatch.setattr(Logged, "loop", loop, raising=False)
        yield Asker(Server(make_found(1000)), make_backend=Logged)


def sequences(answer: Any) -> list[int]:
    return [int(entry["sequence"]) for entry in answer.json["entries"]]


def test_the_newest_page_of_a_log_is_read_and_no_more(log: Asker) -> None:
    answer = log(f"{DATA}/log")
    assert sequences(answer) == list(range(1001 - PAGE_SIZE, 1001))
    assert answer.json["hasOlder"]
    assert [one.after_sequence for one in Logged.requests] == [1000 - PAGE_SIZE]


def test_an_older_page_ends_before_what_is_known_and_the_rest_is_not_read(log: Asker) -> None:
    answer = log(f"{DATA}/log?before=101&limit=10")
    assert sequences(answer) == list(range(91, 101))
    assert Logged.read <= 12
    first = log(f"{DATA}/log?before=6&limit=10")
    assert (sequences(first), first.json["hasOlder"]) == ([1, 2, 3, 4, 5], False)


def test_there_is_nothing_before_the_first_entry(log: Asker) -> None:
    for before in ("1", "0"):
        assert log(f"{DATA}/log?before={before}").json == {"entries": [], "hasOlder": False}
    assert Logged.requests == []


def test_of_large_entries_the_newest_are_kept(log: Asker) -> None:
    for sequence in range(980, 1001):
        Logged.contents[sequence] = "x" * (PAGE_BYTES // 4)
    answer = log(f"{DATA}/log")
    assert sequences(answer) == [998, 999, 1000]
    assert answer.json["hasOlder"]
    Logged.contents[1000] = "x" * (2 * PAGE_BYTES)
    assert sequences(log(f"{DATA}/log")) == [1000]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("before=x", "before"),
        ("before=-1", "before"),
        ("before=1.5", "before"),
        (f"before={'9' * 19}", "before"),
        ("limit=101", "limit"),
        ("limit=٣", "limit"),
    ],
)
def test_a_page_that_is_none_is_refused(log: Asker, query: str, field: str) -> None:
    answer = log(f"{DATA}/log?{query}")
    assert (answer.status_code, answer.json["details"]["field"]) == (400, field)


# Deliveries.


def delivery(**facts: Any) -> pb.MessageDelivery:
    return pb.MessageDelivery(
        session_id=ID,
        message_id=MESSAGE,
        message_sequence=4,
        attempts=2,
        max_attempts=5,
        created_at=values.timestamp(NOW),
        **facts,
    )


def test_deliveries_are_told_with_what_is_known_of_them() -> None:
    failure = DeliveryFailure(at=values.timestamp(NOW), attempt=2, reason=EVIL, detail="d")
    waiting = delivery(
        state=pb.DELIVERY_STATE_WAITING, last_failure=failure, next_attempt_at=values.timestamp(NOW + 1)
    )
    in_hand = delivery(
        state=pb.DELIVERY_STATE_IN_HAND,
        worker_id="w",
        worker_address="10.0.0.1:5",
        lease_expires_at=values.timestamp(NOW),
    )
    failed = delivery(state=pb.DELIVERY_STATE_FAILED, can_redeliver=True)
    requests: list[pb.ListDeliveriesRequest] = []

    def answer(request: Any, _metadata: Any) -> Any:
        requests.append(request)
        return pb.ListDeliveriesResponse(deliveries=[waiting, in_hand, failed], next_page_token="t")

    body = Asker(answer)(f"{DATA}/deliveries?page=p").json
    assert requests == [pb.ListDeliveriesRequest(session_id=ID, page_size=100, page_token="p")]
    one, two, three = body["deliveries"]
    assert body["nextPage"] == "t"
    assert [one["state"], two["state"], three["state"]] == ["waiting", "in hand", "failed"]
    assert one["lastFailure"] == {
        "at": "2027-01-15T08:00:00.000Z",
        "attempt": 2,
        "reason": EVIL,
        "detail": "d",
    }
    assert one["nextAttemptAt"] == "2027-01-15T08:00:00.001Z"
    assert (two["workerId"], two["workerAddress"]) == ("w", "10.0.0.1:5")
    assert (two["lastFailure"], two["nextAttemptAt"], one["workerId"]) == (None, None, None)
    assert (one["canRedeliver"], three["canRedeliver"]) == (False, True)


def test_every_state_has_a_word() -> None:
    from rest_facade.console.deliveries import STATES

    assert set(STATES) == set(pb.DeliveryState.values())


BODY = {"messageId": MESSAGE, "messageSequence": 4}


def redelivering(requests: list[Any]) -> Answer:
    def answer(request: Any, _metadata: Any) -> Any:
        requests.append(request)
        return pb.RedeliverMessageResponse(delivery=delivery(state=pb.DELIVERY_STATE_WAITING))

    return answer


@pytest.mark.parametrize(
    "headers",
    [
        OWN,
        {**OWN, "Sec_Fetch_Site": "same-origin", "Origin": "https://outside.example"},
        {**OWN, "Origin": "http://localhost"},
    ],
)
def test_a_message_is_delivered_anew(headers: dict[str, str]) -> None:
    requests: list[Any] = []
    answer = Asker(redelivering(requests))(f"{DATA}/redeliver", "POST", json=BODY, **headers)
    assert (answer.status_code, answer.json["delivery"]["state"]) == (200, "waiting")
    assert requests == [pb.RedeliverMessageRequest(session_id=ID, message_id=MESSAGE, message_sequence=4)]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"HX_Request": "false"},
        {"Sec_Fetch_Site": "same-origin"},
        *({**OWN, "Sec_Fetch_Site": site} for site in ("cross-site", "same-site", "none", "")),
        # Of an old browser, which says no more.
        *({**OWN, "Origin": origin} for origin in ("http://localhost:5000", "null", "")),
    ],
)
def test_no_other_page_can_deliver_anew(headers: dict[str, str]) -> None:
    requests: list[Any] = []
    answer = Asker(redelivering(requests))(f"{DATA}/redeliver", "POST", json=BODY, **headers)
    assert (answer.status_code, answer.json["code"]) == (403, "ORIGIN_NOT_ALLOWED")
    assert requests == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        *(({"messageId": value}, "messageId") for value in ("", "x", None, 7, [])),
        *(({"messageSequence": value}, "messageSequence") for value in (-1, 1.5, "4", True, None, 1 << 63)),
    ],
)
def test_a_message_that_is_none_is_named(change: dict[str, Any], field: str) -> None:
    requests: list[Any] = []
    answer = Asker(redelivering(requests))(f"{DATA}/redeliver", "POST", json={**BODY, **change}, **OWN)
    assert (answer.status_code, answer.json["details"]["field"]) == (400, field)
    assert requests == []


def test_a_refused_redelivery_says_why() -> None:
    answer = Asker(refuse("SESSION_EXPIRED", "Session has expired", {"sessionId": ID}))(
        f"{DATA}/redeliver", "POST", json=BODY, **OWN
    )
    assert (answer.status_code, answer.json["code"]) == (410, "SESSION_EXPIRED")


def test_nothing_is_changed_by_a_get() -> None:
    assert Asker(redelivering([]))(f"{DATA}/redeliver", **OWN).status_code in (404, 405)
