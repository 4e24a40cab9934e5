"""What a store of an earlier schema holds is found by the indexes and the counts that were added since."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.domain.idempotency import RequestKey
from server.domain.log import ReplyFailure
from server.domain.replies import redeliver
from server.domain.sessions import Outcome
from server.store.sqlite.check import problems
from server.store.sqlite.store import SqliteStore
from server.store.values import Counts, SessionFilter
from tests.store.conformance.common import contents, respond
from tests.store.old_schemas import EXPIRED, LIVE, make_old_store
from tests.support.inside_sqlite import read_connections
from tests.unit.samples import AGENT, MINUTE, T0, USER, put, session

SCHEMA = 5
"""The last without them."""


async def reopened(path: Path, *statements: str, schema: int = SCHEMA) -> Any:
    make_old_store(path, schema)
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
    clock = TestClock()
    clock.set_ms(T0)
    return await SqliteStore.open(path, clock)


async def test_its_sessions_are_listed_and_counted(tmp_path: Path) -> None:
    warned = f"UPDATE sessions SET warned = 1, due_at_ms = expires_at_ms WHERE id = '{LIVE}'"
    store = await reopened(tmp_path / "old.db", warned)
    assert await store.counts(scope=EVERYTHING) == Counts(1, 1, 1, 0)
    for filters in ({}, {"agent_id": AGENT}, {"user_id": USER}, {"agent_id": AGENT, "user_id": USER}):
        page = await store.list_sessions(T0, limit=5, **filters, scope=EVERYTHING)
        assert ([one.id for one in page.sessions], page.total) == ([LIVE], 1)
    assert list(problems(read_connections(store)[0])) == []
    await store.close()


async def test_its_expired_sessions_are_purged_by_the_setting(tmp_path: Path) -> None:
    store = await reopened(tmp_path / "old.db", schema=12)
    expired = await store.get_session(EXPIRED, scope=EVERYTHING)
    assert (expired.retention_ms, expired.expiry_logged) == (None, True)
    assert (await store.get_agent(AGENT, scope=EVERYTHING)).retention_minutes is None
    assert await store.purge(expired.expires_at_ms + 9, 100, retention_ms=10) == 0
    # The session and the entry of its expiry.
    assert await store.purge(expired.expires_at_ms + 10, 100, retention_ms=10) == 2
    assert await store.counts(scope=EVERYTHING) == Counts(1, 0, 0, 0)
    assert list(problems(read_connections(store)[0])) == []
    await store.close()


async def test_a_create_repeated_after_the_upgrade_gets_its_first_answer(tmp_path: Path) -> None:
    key = RequestKey(f"user:{USER}", "again", "content")
    new = session()
    fields = new._asdict() | {"timeout": new.timeout._asdict()}
    # By the names that the fields had then.
    fields["warned"], fields["expired"] = fields.pop("warning_logged"), fields.pop("expiry_logged")
    store = await reopened(
        tmp_path / "old.db",
        "INSERT INTO requests (scope, id, fingerprint, answer, created_at_ms, session_id) "
        f"VALUES ('{key.scope}', '{key.id}', '{key.fingerprint}', '{orjson.dumps(fields).decode()}', {T0}, "
        f"'{LIVE}')",
    )
    assert await put(store, session(), key) == Outcome(new, replayed=True)
    await store.close()


@pytest.mark.parametrize("is_readable", [True, False])
async def test_its_failures_are_found(tmp_path: Path, is_readable: bool) -> None:
    failure = (
        '{"message_id":"m6","message_sequence":7,"reason":"gone","attempts":3}'
        if is_readable
        else '{"message_'
    )
    store = await reopened(
        tmp_path / "old.db",
        "INSERT INTO log (session_id, sequence, at_ms, kind, expires_at_ms, renewal_count, was_renewed, "
        "is_near_expiration, failure) "
        f"VALUES ('{LIVE}', 8, {T0 + 8}, 'reply_failure', {T0}, 2, 0, 0, '{failure}')",
        f"UPDATE deliveries SET state = 'failed', due_at_ms = NULL WHERE session_id = '{LIVE}' AND "
        "sequence = 7",
        f"UPDATE sessions SET last_sequence = 8, last_entry_ms = {T0 + 8} WHERE id = '{LIVE}'",
    )
    found = await store.find_answer(LIVE, 7, scope=EVERYTHING)
    if is_readable:
        assert found.event == ReplyFailure("m6", 7, "gone", 3)
    else:
        # A row that is damaged keeps nobody from the rest.
        assert found is None
    assert contents([await store.find_answer(LIVE, 5, scope=EVERYTHING)]) == ["re"]
    one = await store.get_session(LIVE, scope=EVERYTHING)
    assert contents(await store.list_history(one, before_sequence=7, limit=9)) == [
        "hi",
        "ho",
        "two",
        "three",
        "re",
    ]
    await store.close()


@pytest.mark.parametrize(
    ("schema", "further", "due_ms"),
    [
        (8, "", T0 + 7),
        (9, "UPDATE sessions SET open_deliveries = 2 WHERE open_deliveries > 0", T0 + 7),
        (8, f"UPDATE deliveries SET state = 'leased', due_at_ms = {T0 + 5000} WHERE sequence = 7", 0),
    ],
)
async def test_its_open_deliveries_are_counted_and_the_first_is_due(
    tmp_path: Path, schema: int, further: str, due_ms: int
) -> None:
    store = await reopened(
        tmp_path / "old.db",
        "INSERT INTO log (session_id, sequence, at_ms, kind, expires_at_ms, renewal_count, was_renewed, "
        "is_near_expiration, message_id, "
        f"is_agent, content, metadata) VALUES ('{LIVE}', 8, {T0 + 8}, 'message', {T0}, 2, 0, 0, 'm8', 0, "
        f"'five', '{{}}')",
        f"INSERT INTO deliveries (session_id, sequence, state, attempts, due_at_ms) VALUES ('{LIVE}', 8, "
        f"'leased', 1, {T0 + 9})",
        f"UPDATE sessions SET last_sequence = 8, last_entry_ms = {T0 + 8} WHERE id = '{LIVE}'",
        further,
        schema=schema,
    )
    assert (await store.get_session(LIVE, scope=EVERYTHING)).open_deliveries == 2
    assert await store.count_open() == {AGENT: 2}
    assert [(one.session.id, one.delivery.sequence) for one in await store.lease_due(AGENT, T0 + 7, 9)] == [
        (LIVE, 7)
    ]
    assert await store.next_delivery_ms(AGENT) == due_ms
    assert list(problems(read_connections(store)[0])) == []
    answered = await store.apply_delivery(LIVE, 7, respond(), scope=EVERYTHING)
    assert answered.session.open_deliveries == 1
    assert list(problems(read_connections(store)[0])) == []
    await store.close()


async def test_its_failed_messages_can_be_delivered_anew(tmp_path: Path) -> None:
    def message(session_id: str, sequence: int) -> list[str]:
        at_ms = T0 + sequence if session_id == LIVE else T0 + sequence * MINUTE * 60
        return [
            "INSERT INTO log (session_id, sequence, at_ms, kind, expires_at_ms, renewal_count, was_renewed, "
            "is_near_expiration, message_id, is_agent, content, metadata) "
            f"VALUES ('{session_id}', {sequence}, {at_ms}, 'message', {T0}, 2, 0, 0, 'm{sequence}', 0, "
            "'lost', '{}')",
            "INSERT INTO deliveries (session_id, sequence, state, attempts) "
            f"VALUES ('{session_id}', {sequence}, 'failed', 3)",
            f"UPDATE sessions SET last_sequence = {sequence}, last_entry_ms = {at_ms} "
            f"WHERE id = '{session_id}'",
        ]

    statements = [*message(LIVE, 8), *message(LIVE, 9), *message(EXPIRED, 2)]
    store = await reopened(tmp_path / "old.db", *statements, schema=11)
    live, expired = [await store.get_session(one, scope=EVERYTHING) for one in (LIVE, EXPIRED)]
    assert (live.failed_deliveries, expired.failed_deliveries) == (2, 0)
    page = await store.list_agent_deliveries(AGENT, scope=EVERYTHING, limit=5, failed=True)
    assert [(one.delivery.session_id, one.delivery.sequence) for one in page.deliveries] == [
        (LIVE, 8),
        (LIVE, 9),
    ]
    found = await store.search_sessions(T0, SessionFilter(is_expired=True), scope=EVERYTHING, limit=5)
    assert [one.id for one in found.sessions] == [EXPIRED]
    for rule in (redeliver, respond("found again")):
        await store.apply_delivery(LIVE, 8, rule, scope=EVERYTHING)
    assert (await store.get_session(LIVE, scope=EVERYTHING)).failed_deliveries == 1
    assert list(problems(read_connections(store)[0])) == []
    await store.close()
