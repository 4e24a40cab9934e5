"""A user's data over gRPC: listed, handed out, and erased without a trace. Admin actions are in the log."""

import json
import re
import uuid
from collections.abc import Iterator
from functools import partial

import grpc
import pytest

from eliza.sessions.errors import error_info
from eliza.sessions.v1 import agent_pb2, agent_service_pb2, session_service_pb2, user_data_service_pb2
from tests.service.access.user_data import (
    SECONDS,
    add_session,
    advance,
    erase,
    export,
    list_page,
    listed,
    new_user,
    say,
    stub,
)
from tests.service.access.world import TENANT, World, make_world
from tests.support.service import ECHO, Serve
from tests.support.waiting import until

MANY = 900
PART_BYTES = 256 * 1024


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A protected service of this module's own, whose clock may be moved."""
    directory = tmp_path_factory.mktemp("users")
    settings = {"TEST_CLOCK": "1", "MAX_OPEN_DELIVERIES": "100000", "LOG_FORMAT": "json"}
    made = make_world(partial(Serve, directory), directory, **settings)
    yield made
    assert made.service.stop() == 0, made.service.log()


def log_lines(world: World) -> list[dict[str, object]]:
    return [json.loads(line) for line in world.service.log().splitlines()]


def audit_lines(world: World) -> list[dict[str, object]]:
    return [line for line in log_lines(world) if line["event"] == "audit"]


# Listing.


def test_sessions_are_listed_newest_first_page_by_page(own: World) -> None:
    user = new_user()
    short = add_session(own, user, minutes=5)
    advance(own, 6)
    made = [short]
    for _ in range(4):
        made.append(add_session(own, user))
        advance(own, 0.001)
    add_session(own, new_user())
    found, token, sizes = [], "", []
    while True:
        page = list_page(own, user, size=2, token=token)
        sizes.append(len(page.sessions))
        found += page.sessions
        if not (token := page.next_page_token):
            break
    assert sizes == [2, 2, 1]
    assert [session.session_id for session in found] == made[::-1]
    assert [session.time_remaining_ms > 0 for session in found] == [True] * 4 + [False]


def test_a_token_of_a_page_is_that_user_s(own: World) -> None:
    user = new_user()
    for _ in range(2):
        add_session(own, user)
    token = list_page(own, user, size=1).next_page_token
    assert token
    with pytest.raises(grpc.RpcError) as refused:
        list_page(own, new_user(), size=1, token=token)
    assert error_info(refused.value).reason == "INVALID_PAGINATION"


def test_users_of_other_tenants_are_not_seen(own: World) -> None:
    user = new_user()
    theirs = add_session(own, user, caller="other_tenant", agent=ECHO)
    assert listed(own, user) == []
    assert export(own, user) == []
    assert erase(own, user).sessions == 0
    assert listed(own, user, "other_tenant") == [theirs]


# Export.


def test_an_export_has_every_session_and_entry_a_line_each(own: World) -> None:
    user = new_user()
    older = add_session(own, user, note="older", minutes=5)
    say(own, older, "one")
    advance(own, 6)
    newer = add_session(own, user, note="newer", agent=ECHO)
    say(own, newer, "two\nlines", "three")
    get = session_service_pb2.GetSessionRequest(session_id=newer)
    until(
        lambda: (
            own.service.sessions.GetSession(
                get, metadata=own.metadata("admin"), timeout=SECONDS
            ).session.last_sequence
            == 4
        ),
        "the echo's replies",
    )
    text = b"".join(export(own, user))
    assert text.endswith(b"\n")
    records = [json.loads(line) for line in text.splitlines()]
    sessions = [record["session"] for record in records if record["record"] == "session"]
    assert [session["sessionId"] for session in sessions] == [newer, older]
    assert [json.loads(session["metadataJson"]) for session in sessions] == [
        {"note": "newer"},
        {"note": "older"},
    ]
    assert {session["userId"] for session in sessions} == {user}
    entries = [record["entry"] for record in records if record["record"] == "entry"]
    # The entries of a session follow it.
    assert [record["record"] for record in records][:6] == ["session", *["entry"] * 4, "session"]
    assert [int(entry["sequence"]) for entry in entries[:4]] == [1, 2, 3, 4]
    said = {
        entry["message"]["content"] for entry in entries[:4] if not entry["message"].get("isAgent", False)
    }
    assert said == {"two\nlines", "three"}
    # It is near its end from the start, and again where the message renewed it after the warning.
    events = [set(entry) - {"sessionId", "sequence", "at", "sessionStatus"} for entry in entries[4:]]
    assert events.count({"message"}) == 1
    assert events.count({"expirationWarning"}) == len(events) - 2
    assert events[-1] == {"expiry"}
    assert {entry["sessionId"] for entry in entries[4:]} == {older}


def test_a_session_of_thousands_of_messages_comes_in_parts(own: World) -> None:
    user = new_user()
    session_id = add_session(own, user)
    texts = [f"message {number} {'x' * 1000}" for number in range(MANY)]
    say(own, session_id, *texts)
    parts = export(own, user)
    longest_line = 4000
    assert len(parts) > 4
    assert max(map(len, parts)) < PART_BYTES + longest_line
    assert all(part.endswith(b"\n") for part in parts)
    records = [json.loads(line) for line in b"".join(parts).splitlines()]
    found = [record["entry"]["message"]["content"] for record in records[1:]]
    assert sorted(found) == sorted(texts)
    assert [int(record["entry"]["sequence"]) for record in records[1:]] == list(range(1, MANY + 1))


# Erasure.


def files_with(world: World, *texts: str) -> dict[str, list[str]]:
    """In which files of the store which of the texts are, while the service runs."""
    directory, found = world.service.log_path.parent, {}
    for file in sorted(directory.glob("store.db*")):
        content = file.read_bytes().lower()
        if met := [text for text in texts if text.lower().encode() in content]:
            found[file.name] = met
    return found


@pytest.mark.sqlite
def test_an_erase_leaves_nothing_of_the_user(own: World) -> None:
    user, other = new_user(), new_user()
    content, note = f"content-{uuid.uuid4().hex}", f"note-{uuid.uuid4().hex}"
    expired = add_session(own, user, note=note, minutes=5)
    say(own, expired, content)
    advance(own, 6)
    live = add_session(own, user, note=note)
    say(own, live, content, content)
    deleted = add_session(own, user, note=note)
    say(own, deleted, content)
    own.service.sessions.DeleteSession(
        session_service_pb2.DeleteSessionRequest(session_id=deleted),
        metadata=own.metadata("service"),
        timeout=10,
    )
    kept = add_session(own, other, note="kept")
    say(own, kept, "kept")
    kept_export = export(own, other)
    assert kept_export
    entries = sum(b'"entry"' in line for line in b"".join(export(own, user)).splitlines())
    assert files_with(own, user, content, note)

    watch = own.service.sessions.WatchSession(
        session_service_pb2.WatchSessionRequest(session_id=live, after_sequence=1),
        metadata=own.metadata("service"),
        timeout=SECONDS,
    )
    assert next(watch).entry.sequence == 2
    receipt = erase(own, user)
    told: list[str] = []
    with pytest.raises(grpc.RpcError) as ended:
        told.extend(event.WhichOneof("event") for event in watch)
    assert told == ["deleted"]
    assert error_info(ended.value).reason == "SESSION_NOT_FOUND"

    assert receipt.user_id == user
    assert (receipt.sessions, receipt.entries) == (2, entries)
    # A message each, and the keys of both creations and of each message.
    assert (receipt.deliveries, receipt.request_ids) == (3, 5)
    (backups,) = receipt.not_covered
    assert "Backups" in backups
    assert listed(own, user) == []
    assert export(own, user) == []
    assert files_with(own, user, content, note) == {}
    assert listed(own, other) == [kept]
    assert export(own, other) == kept_export

    again = erase(own, user)
    assert (again.sessions, again.entries, again.deliveries, again.request_ids) == (0, 0, 0, 0)
    log = own.service.log()
    assert content not in log
    assert note not in log
    naming = {(line["event"], line["method"]) for line in log_lines(own) if user in json.dumps(line)}
    service = "eliza.sessions.v1.UserDataService"
    assert naming == {("audit", f"{service}/{name}") for name in ("ExportUserData", "DeleteUserData")}


def test_no_user_and_no_uuid_are_refused(own: World) -> None:
    for user, reason in (("", "MISSING_FIELDS"), ("bob", "INVALID_UUID")):
        for call in (list_page, export, erase):
            with pytest.raises(grpc.RpcError) as refused:
                call(own, user)
            assert error_info(refused.value).reason == reason


# The audit log.


def test_each_admin_action_is_a_line_of_the_audit_log(own: World) -> None:
    user, before = new_user(), len(audit_lines(own))
    add_session(own, user)
    options = {"metadata": own.metadata("admin"), "timeout": SECONDS}
    agent = agent_pb2.Agent(name="Audited", kind=agent_pb2.AGENT_KIND_STREAM)
    agent_id = own.service.agents.CreateAgent(
        agent_service_pb2.CreateAgentRequest(agent=agent), **options
    ).agent.agent_id
    renamed = agent_pb2.Agent(agent_id=agent_id, name="Renamed")
    own.service.agents.UpdateAgent(agent_service_pb2.UpdateAgentRequest(agent=renamed), **options)
    own.service.agents.DeleteAgent(agent_service_pb2.DeleteAgentRequest(agent_id=agent_id), **options)
    list_page(own, user)
    export(own, user)
    erase(own, user)
    advance(own, 0.001)
    # What is refused is no action.
    for caller in ("service", "user", "none", "wrong"):
        with pytest.raises(grpc.RpcError):
            erase(own, user, caller)
    with pytest.raises(grpc.RpcError):
        own.service.agents.DeleteAgent(agent_service_pb2.DeleteAgentRequest(agent_id=agent_id), **options)
    lines = audit_lines(own)[before:]
    assert [(line["method"].rpartition(".")[2], line["target"]) for line in lines] == [
        ("AgentService/CreateAgent", agent_id),
        ("AgentService/UpdateAgent", agent_id),
        ("AgentService/DeleteAgent", agent_id),
        ("UserDataService/ExportUserData", user),
        ("UserDataService/DeleteUserData", user),
        ("ClockService/AdvanceClock", ""),
    ]
    for line in lines:
        assert (line["principal"], line["role"], line["tenant"]) == ("admin", "admin", TENANT)
        assert "broken_off" not in line
    assert not re.search(r"es_[a-z-]+_[\w-]{20}", own.service.log())


def test_an_export_that_breaks_off_is_in_the_audit_log(own: World) -> None:
    user, before = new_user(), len(audit_lines(own))
    say(own, add_session(own, user), *("y" * 3900 for _ in range(1000)))
    request = user_data_service_pb2.ExportUserDataRequest(user_id=user)
    stream = stub(own).ExportUserData(request, metadata=own.metadata("admin"), timeout=SECONDS)
    assert next(stream).lines
    stream.cancel()
    (line,) = until(lambda: audit_lines(own)[before:], "the line")
    assert (line["method"].rpartition("/")[2], line["target"]) == ("ExportUserData", user)
    assert line["broken_off"] is True
