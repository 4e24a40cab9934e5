"""A batch of operations in SQLite: what it wants is loaded, and what it leaves is written, table by table."""

import sqlite3
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

import orjson

from server.domain.deliveries import DeliveryState
from server.domain.log import Entry
from server.domain.sessions import Session, due_at_ms
from server.store import rows
from server.store.batch import Loaded, Remembered, Wanted, Written
from server.store.sqlite.counts import change_counts
from server.store.sqlite.items import columns_of_item, execute_rows
from server.store.sqlite.removal import IS_THERE

_LOAD_SESSIONS = (
    f"SELECT {', '.join(rows.SESSION)} FROM sessions WHERE id IN (SELECT value FROM json_each(?))"
)
_INSERT_SESSIONS = f"INSERT INTO sessions ({', '.join(rows.SESSION)}, due_at_ms) {{}}"
# What few batches change, and indexes have: with these SQLite would write each session anew into them.
_SELDOM = {"expired", "failed_deliveries"}
_UPDATED = {column: index for index, column in enumerate(rows.SESSION_CHANGING) if column not in _SELDOM}
UPDATE_SESSIONS: Final = (
    f"WITH item AS ({{}}) UPDATE sessions SET ({', '.join(_UPDATED)}) = "
    f"({columns_of_item(_UPDATED.values())}) FROM item "
    f"WHERE sessions.id = {columns_of_item([len(rows.SESSION_CHANGING)])}"
)
_SET_DUE = "WITH item AS ({}) UPDATE sessions SET due_at_ms = column2 FROM item WHERE sessions.id = column1"
_SET_FAILED = (
    "WITH item AS ({}) UPDATE sessions SET failed_deliveries = column2 FROM item WHERE sessions.id = column1"
)
_EXPIRE_SESSIONS = (
    "UPDATE sessions SET expired = true, head_sequence = NULL, head_due_ms = NULL WHERE id IN ({})"
)
# The first open delivery of each session; due at once while it is leased, see `lease_due`.
_SET_HEADS = (
    "WITH item AS ({}) UPDATE sessions SET (head_sequence, head_due_ms) = ("
    "SELECT sequence, iif(state = 'leased', 0, max(deliveries.due_at_ms, item.column2)) "
    f"FROM deliveries INDEXED BY deliveries_open WHERE session_id = sessions.id AND state IN {rows.OPEN} "
    "ORDER BY sequence LIMIT 1) FROM item WHERE sessions.id = item.column1"
)
_INSERT_ENTRIES = f"INSERT INTO log ({', '.join(rows.ENTRY)}) {{}}"
_LOAD_DELIVERIES = (
    f"SELECT {rows.of('deliveries', rows.DELIVERY)} FROM json_each(?) AS item CROSS JOIN deliveries "
    "ON deliveries.session_id = item.value ->> 0 AND deliveries.sequence = item.value ->> 1"
)
_CHANGING_DELIVERY = rows.DELIVERY[2:]
_PUT_DELIVERIES = (
    f"INSERT INTO deliveries ({', '.join(rows.DELIVERY)}) {{}} "
    f"ON CONFLICT DO UPDATE SET ({', '.join(_CHANGING_DELIVERY)}) = "
    f"({', '.join(f'excluded.{column}' for column in _CHANGING_DELIVERY)})"
)
# The index is named because SQLite would take the primary key, and read past every delivery that is closed.
_CLOSE_DELIVERIES = (
    f"UPDATE deliveries SET state = '{DeliveryState.FAILED}', due_at_ms = NULL WHERE (session_id, sequence) "
    "IN (SELECT session_id, sequence FROM deliveries INDEXED BY deliveries_open WHERE session_id IN "
    f"({{}}) AND state IN {rows.OPEN})"
)
# With the entry that a request made. CAST makes 0 of a session, which is no sequence.
_LOAD_REQUESTS = (
    "SELECT requests.scope, requests.id, fingerprint, answer, requests.session_id, "
    f"{rows.of('log', rows.ENTRY)} "
    "FROM json_each(?) AS item CROSS JOIN requests "
    "ON requests.scope = item.value ->> 0 AND requests.id = item.value ->> 1 AND "
    f"{IS_THERE.format('requests.session_id')} "
    "LEFT JOIN log ON log.session_id = requests.session_id AND log.sequence = CAST(answer AS INTEGER)"
)
_LOAD_AGENTS = f"SELECT {', '.join(rows.AGENT)} FROM agents WHERE id IN (SELECT value FROM json_each(?))"
_LOAD_COUNTS = (
    f"SELECT {rows.of('session_counts', rows.COUNT)} FROM json_each(?) AS item CROSS JOIN session_counts "
    "ON state = item.value ->> 0 AND agent_id = item.value ->> 1 AND user_id = item.value ->> 2 "
    "AND tenant = item.value ->> 3"
)
# One that is there under the same name was left by a session that is gone.
_PUT_REQUESTS = f"INSERT OR REPLACE INTO requests ({', '.join(rows.REQUEST)}) {{}}"


def load(
    connection: sqlite3.Connection, wanted: Wanted, recent: Mapping[str, Session] = MappingProxyType({})
) -> Loaded:
    """Loads what a batch wants, but for sessions that are in `recent`. Raises sqlite3.Error."""

    def select(statement: str, keys: Iterable[Any]) -> list[rows.Row]:
        listed = list(keys)
        return connection.execute(statement, (orjson.dumps(listed).decode(),)).fetchall() if listed else []

    loaded = Loaded(
        {session_id: recent[session_id] for session_id in wanted.sessions if session_id in recent}
    )
    for session in map(rows.session_of, select(_LOAD_SESSIONS, wanted.sessions - loaded.sessions.keys())):
        loaded.sessions[session.id] = session
    for delivery in map(rows.delivery_of, select(_LOAD_DELIVERIES, wanted.deliveries)):
        loaded.deliveries[delivery.session_id, delivery.sequence] = delivery
    for agent in map(rows.agent_of, select(_LOAD_AGENTS, wanted.agents)):
        loaded.agents[agent.id] = agent
    for *key, sessions in select(_LOAD_COUNTS, wanted.counts):
        loaded.counts[key[0], key[1], key[2], key[3]] = sessions
    for scope, request_id, fingerprint, answer, session_id, *entry in select(_LOAD_REQUESTS, wanted.requests):
        made = orjson.loads(answer)
        known: Session | Entry | None = rows.entry_of(tuple(entry)) if entry[0] is not None else None
        if isinstance(made, dict):
            known = rows.session_from_json(made)
        loaded.requests[scope, request_id] = Remembered(fingerprint, known, session_id)
    return loaded


def write(connection: sqlite3.Connection, written: Written) -> None:
    """Writes what a batch leaves, in a transaction that is under way; what it removes is removed already.

    Raises sqlite3.Error.
    """
    due = ((one.id, due_at_ms(one)) for one in written.nearer)
    failures = ((one.id, one.failed_deliveries) for one in written.failures)
    expired = [(session_id,) for session_id in written.expired]
    execute_rows(connection, _INSERT_SESSIONS, map(rows.session_row, written.created))
    execute_rows(connection, UPDATE_SESSIONS, map(rows.session_changing_row, written.changed))
    execute_rows(connection, _SET_DUE, due)
    execute_rows(connection, _SET_FAILED, failures)
    change_counts(connection, written.counts)
    execute_rows(connection, _INSERT_ENTRIES, map(rows.entry_row, written.entries))
    execute_rows(connection, _PUT_DELIVERIES, map(rows.delivery_row, written.deliveries))
    execute_rows(connection, _SET_HEADS, written.heads.items())
    execute_rows(connection, _EXPIRE_SESSIONS, expired)
    execute_rows(connection, _CLOSE_DELIVERIES, expired)
    execute_rows(connection, _PUT_REQUESTS, map(rows.request_row, written.requests))


def set_due(connection: sqlite3.Connection, deadlines: Iterable[tuple[str, int | None]]) -> None:
    """Stores the deadlines of sessions, by their ids. Raises sqlite3.Error."""
    execute_rows(connection, _SET_DUE, deadlines)
