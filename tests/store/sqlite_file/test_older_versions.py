"""A file of an older version is migrated and goes on."""

import sqlite3
from pathlib import Path

import pytest

from server.domain.access import EVERYTHING
from server.domain.agents import Agent, AgentKind
from server.domain.deliveries import Delivery, DeliveryState
from server.domain.errors import DeliveryNotFoundError
from server.domain.log import TimeoutChange
from server.domain.messages import AgentMessage
from server.domain.sessions import fall_due
from server.domain.timeouts import PartialTimeoutConfig
from server.store.sqlite import file as sqlite_file
from tests.store.conformance.common import contents, delivery, respond, say
from tests.store.sqlite_file.opened import opened
from tests.support.inside_sqlite import all_migrations
from tests.unit.samples import AGENT, MINUTE, T0, USER

BEFORE_DELIVERIES = f"""
INSERT INTO agents VALUES ('{AGENT}', 'old', 'echo', {T0}, {T0}, 45.0, 0, NULL, NULL);
INSERT INTO sessions VALUES ('{USER}', '{AGENT}', '{AGENT}', '{USER}', '{{"a":1}}', 30.0, 1, 720.0, 5.0, {T0}, {T0 + 4}, {T0 + 4},
    {T0 + 4 + 30 * MINUTE}, 2, 0, 0, 4, {T0 + 4}, {T0 + 4 + 25 * MINUTE});
INSERT INTO log VALUES ('{USER}', 1, {T0 + 1}, 'message', {T0}, 1, 1, 0, 'm1', 0, 'hi', '{{}}', NULL, NULL, NULL, NULL);
INSERT INTO log VALUES ('{USER}', 2, {T0 + 2}, 'message', {T0}, 1, 0, 0, 'm2', 1, 'ho', '{{}}', '[1]', '"hm"', '["X"]', NULL);
INSERT INTO log VALUES ('{USER}', 3, {T0 + 3}, 'timeout_change', {T0}, 1, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    '{{"timeout_minutes":30.0,"auto_renew":true,"max_duration_minutes":720.0,"warning_threshold_minutes":5.0}}');
INSERT INTO log VALUES ('{USER}', 4, {T0 + 4}, 'message', {T0}, 2, 1, 0, 'm3', 0, 'unanswered', '{{}}', NULL, NULL, NULL, NULL);
"""
"""What a service wrote that knew migrations 0001 and 0002."""


class TestAnOlderVersion:
    async def test_a_database_from_before_deliveries_goes_on(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as older:
            migrations = all_migrations()[:2]
            older.setattr(sqlite_file, "_migrations", lambda: migrations)
            older.setattr(sqlite_file, "rewrite", lambda path, connection: None)
            sqlite_file.prepare(path).release()
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA user_version").fetchone()[0] == 2
        connection.executescript(BEFORE_DELIVERIES)
        connection.close()
        store = await opened(path)
        assert await store.list_agents(limit=5, scope=EVERYTHING) == [
            Agent(AGENT, "old", AgentKind.ECHO, T0, T0, PartialTimeoutConfig(45.0, False))
        ]
        one = await store.get_session(USER, scope=EVERYTHING)
        assert (one.metadata, one.last_sequence, one.renewal_count) == ('{"a":1}', 4, 2)
        log = await store.list_entries(USER, after_sequence=0, limit=9, scope=EVERYTHING)
        assert log[1].message == AgentMessage("m2", "ho", "{}", "[1]", "hm", ("X",))
        assert log[2].event == TimeoutChange(one.timeout)
        assert len(log) == 4
        # Nobody waits for replies to what was sent before.
        assert await store.count_open() == {}
        for sequence in (1, 4):
            assert await delivery(store, one, sequence) == Delivery(
                USER, sequence, DeliveryState.ANSWERED, 0, None
            )
        with pytest.raises(DeliveryNotFoundError):
            await delivery(store, one, 2)
        await store.apply(USER, say("new"), scope=EVERYTHING)
        assert [left.delivery.sequence for left in await store.lease_due(AGENT, T0, 9)] == [5]
        assert contents(await store.list_history(one, before_sequence=5, limit=9)) == [
            "hi",
            "ho",
            "unanswered",
        ]
        answered = await store.apply_delivery(USER, 5, respond("yes"), scope=EVERYTHING)
        assert contents(await store.list_history(one, before_sequence=7, limit=9)) == [
            "hi",
            "ho",
            "unanswered",
            "new",
            "yes",
        ]
        await store.close()
        store = await opened(path, answered.session.expires_at_ms)
        assert await store.get_session(USER, scope=EVERYTHING) == answered.session
        assert (await store.list_entries(USER, after_sequence=5, limit=9, scope=EVERYTHING)) == [
            answered.entry
        ]
        await store.apply(USER, fall_due, scope=EVERYTHING)
        assert await store.purge(answered.session.expires_at_ms, 100) == 11
        await store.close()
