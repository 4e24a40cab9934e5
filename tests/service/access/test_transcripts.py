"""The transcript of a session, live and expired, over gRPC and REST."""

import json
import uuid
from collections.abc import Iterator
from functools import partial
from typing import Any

import grpc
import pytest
import requests

from eliza.sessions.errors import error_info
from eliza.sessions.v1 import agent_pb2, agent_service_pb2, message_service_pb2, session_service_pb2
from tests.service.access.user_data import SECONDS, add_session, advance, listed, new_user, say
from tests.service.access.world import ALICE, World, make_world
from tests.support.service import Serve
from tests.support.waiting import until

MANY = 900
PART_BYTES = 256 * 1024


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A protected service of this module's own, whose clock may be moved."""
    directory = tmp_path_factory.mktemp("transcripts")
    settings = {"TEST_CLOCK": "1", "MAX_OPEN_DELIVERIES": "100000", "SESSION_RETENTION_MINUTES": "60"}
    made = make_world(partial(Serve, directory), directory, **settings)
    yield made
    assert made.service.stop() == 0, made.service.log()


def parts_of(world: World, session_id: str, caller: str = "admin", after: int = 0) -> list[bytes]:
    request = message_service_pb2.ExportTranscriptRequest(session_id=session_id, after_sequence=after)
    stream = world.service.messages.ExportTranscript(
        request, metadata=world.metadata(caller), timeout=SECONDS
    )
    return [part.lines for part in stream]


def transcript(world: World, session_id: str, caller: str = "admin", after: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in b"".join(parts_of(world, session_id, caller, after)).splitlines()]


def reason_of(world: World, session_id: str, caller: str = "admin", after: int = 0) -> str:
    with pytest.raises(grpc.RpcError) as refused:
        transcript(world, session_id, caller, after)
    info = error_info(refused.value)
    assert info is not None
    return info.reason


def get(world: World, session_id: str, caller: str = "admin", path: str = "/transcript") -> requests.Response:
    return requests.get(
        f"http://{world.service.rest}/api/messaging/sessions/{session_id}{path}",
        headers=world.headers(caller),
        timeout=SECONDS,
    )


def without_time(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what changes from one moment to the next."""
    for record in records:
        record.get("session", {}).pop("timeRemainingMs", None)
    return records


def test_it_is_there_until_the_purge(own: World) -> None:
    session_id = add_session(own, new_user(), minutes=5)
    say(own, session_id, "Grüße\nzwei")
    first, *entries = transcript(own, session_id.upper())
    assert (first["record"], first["session"]["sessionId"]) == ("session", session_id)
    assert [record["entry"]["message"]["content"] for record in entries if "message" in record["entry"]] == [
        "Grüße\nzwei"
    ]
    advance(own, 10)
    assert get(own, session_id, path="").status_code == 410
    first, *entries = transcript(own, session_id)
    assert "timeRemainingMs" not in first["session"]
    assert list(entries[-1]["entry"]) == ["sessionId", "sequence", "at", "sessionStatus", "expiry"]
    assert [int(record["entry"]["sequence"]) for record in entries] == list(range(1, len(entries) + 1))
    answer = get(own, session_id)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/jsonl")
    assert answer.headers["Cache-Control"] == "no-store"
    assert [json.loads(line) for line in answer.content.splitlines()] == [first, *entries]
    advance(own, 70)
    assert reason_of(own, session_id) == "SESSION_NOT_FOUND"
    answer = get(own, session_id)
    assert (answer.status_code, answer.json()["code"]) == (404, "SESSION_NOT_FOUND")


def test_its_agent_may_have_a_retention_of_its_own(own: World) -> None:
    """A change of the agent counts for later sessions, and its removal for none."""
    user, sessions = new_user(), []
    agent_id = own.new_agent()

    def change(retention: float) -> None:
        agent = agent_pb2.Agent(agent_id=agent_id, retention_minutes=retention)
        request = agent_service_pb2.UpdateAgentRequest(agent=agent)
        own.service.agents.UpdateAgent(request, metadata=own.metadata("admin"), timeout=SECONDS)

    for retention in (120, 5):
        change(retention)
        sessions.append(add_session(own, user, agent=agent_id, minutes=5))
    change(0)
    removal = agent_service_pb2.DeleteAgentRequest(agent_id=agent_id)
    own.service.agents.DeleteAgent(removal, metadata=own.metadata("admin"), timeout=SECONDS)
    longer, shorter = sessions
    plain = add_session(own, user, minutes=5)

    def kept() -> list[str]:
        found = listed(own, user)
        assert [one for one in (longer, shorter, plain) if get(own, one).status_code == 200] == [
            one for one in (longer, shorter, plain) if one in found
        ]
        return sorted(found)

    advance(own, 9)
    assert kept() == sorted([*sessions, plain])
    advance(own, 6)
    until(lambda: kept() == sorted([longer, plain]), "the purge of the shorter one")
    advance(own, 60)
    until(lambda: kept() == [longer], "the purge by the setting")
    assert transcript(own, longer)[-1]["entry"]["expiry"] is not None
    advance(own, 60)
    until(lambda: kept() == [], "the purge of the longer one")


def test_it_may_begin_behind_an_entry(own: World) -> None:
    session_id = add_session(own, new_user())
    say(own, session_id, "one", "two", "three")
    whole = without_time(transcript(own, session_id))
    assert without_time(transcript(own, session_id, after=2)) == [whole[0], whole[3]]
    assert without_time(transcript(own, session_id, after=2**63 - 1)) == whole[:1]
    assert reason_of(own, session_id, after=-1) == "INVALID_FIELD"
    assert reason_of(own, str(uuid.uuid4()), after=-1) == "SESSION_NOT_FOUND"


def test_a_long_one_comes_in_parts(own: World) -> None:
    session_id = add_session(own, new_user())
    texts = [f"message {number} {'x' * 2000}" for number in range(MANY)]
    say(own, session_id, *texts)
    parts, longest_line = parts_of(own, session_id), 6000
    assert len(parts) > 8
    assert max(map(len, parts)) < PART_BYTES + longest_line
    assert all(part.endswith(b"\n") for part in parts)
    records = [json.loads(line) for line in b"".join(parts).splitlines()]
    assert sorted(record["entry"]["message"]["content"] for record in records[1:]) == sorted(texts)
    answer = get(own, session_id)
    assert "Content-Length" not in answer.headers
    assert without_time([json.loads(line) for line in answer.content.splitlines()]) == without_time(records)


def test_users_read_their_own_where_a_setting_lets_them(
    own: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert reason_of(own, own.session_id, "user") == "PERMISSION_DENIED"
    assert get(own, own.session_id, "user").status_code == 403
    directory = tmp_path_factory.mktemp("allowed")
    settings = {"TEST_CLOCK": "1", "SESSION_RETENTION_MINUTES": "60", "USERS_MAY_READ_TRANSCRIPTS": "1"}
    allowed = make_world(partial(Serve, directory), directory, **settings)
    try:
        assert transcript(allowed, allowed.session_id, "user")[0]["session"]["userId"] == ALICE
        assert get(allowed, allowed.session_id, "user").status_code == 200
        assert reason_of(allowed, allowed.session_id, "other_user") == "SESSION_NOT_FOUND"
        assert get(allowed, allowed.session_id, "other_user").status_code == 404
        # A token for a session is for a browser.
        assert reason_of(allowed, allowed.session_id, "token") == "PERMISSION_DENIED"
        advance(allowed, 31)
        assert get(allowed, allowed.session_id, "user", path="").status_code == 410
        for caller in ("user", "behalf", "service", "admin"):
            assert "expiry" in transcript(allowed, allowed.session_id, caller)[-1]["entry"]
            lines = get(allowed, allowed.session_id, caller).content.splitlines()
            assert "expiry" in json.loads(lines[-1])["entry"]
        assert reason_of(allowed, allowed.session_id, "other_user") == "SESSION_NOT_FOUND"
        assert get(allowed, allowed.session_id, "other_user").status_code == 404
        advance(allowed, 60)
        for caller in ("user", "admin"):
            assert reason_of(allowed, allowed.session_id, caller) == "SESSION_NOT_FOUND"
            assert get(allowed, allowed.session_id, caller).status_code == 404
    finally:
        assert allowed.service.stop() == 0, allowed.service.log()


def test_one_that_is_deleted_meanwhile_does_not_seem_whole(own: World) -> None:
    session_id = add_session(own, new_user())
    say(own, session_id, *("x" * 3900 for _ in range(1000)))
    request = message_service_pb2.ExportTranscriptRequest(session_id=session_id)
    stream = own.service.messages.ExportTranscript(request, metadata=own.metadata("admin"), timeout=SECONDS)
    with requests.get(
        f"http://{own.service.rest}/api/messaging/sessions/{session_id}/transcript",
        headers=own.headers("admin"),
        stream=True,
        timeout=SECONDS,
    ) as answer:
        assert answer.status_code == 200
        next(stream)
        own.service.sessions.DeleteSession(
            session_service_pb2.DeleteSessionRequest(session_id=session_id),
            metadata=own.metadata("admin"),
            timeout=SECONDS,
        )
        with pytest.raises(grpc.RpcError) as broken:
            list(stream)
        info = error_info(broken.value)
        assert info is not None
        assert info.reason == "SESSION_NOT_FOUND"
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            _ = answer.content
