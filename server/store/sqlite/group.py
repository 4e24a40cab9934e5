"""A batch of operations in SQLite: what it wants is loaded, and what it leaves is written, set by set.

Python hands over the interpreter at every SQLite step, so a group costs a handful of steps however many
operations it has.
"""

import sqlite3
from collections.abc import Iterable
from typing import Any

import orjson

from server.domain.deliveries import DeliveryState
from server.domain.log import Entry
from server.domain.sessions import Session, due_at_ms
from server.store.batch import Loaded, Remembered, Wanted, Written
from server.store.sqlite import rows
from server.store.sqlite.counts import change_counts
from server.store.sqlite.removal import IS_THERE

_LOAD_SESSIONS = (
    f"SELECT {', '.join(rows.SESSION)} FROM sessions WHERE id IN (SELECT value FROM json_each(?))"
)
_INSERT_SESSIONS = (
    f"INSERT INTO sessions ({', '.join(rows.SESSION)}, due_at_ms) "
    f"SELECT {rows.item_values(len(rows.SESSION) + 1)} FROM json_each(?) AS item"
)
# Leaves out `expired`, or SQLite would write each session anew into the four indexes of live sessions.
_UPDATED = {column: index for index, column in enumerate(rows.SESSION_CHANGING) if column != "expired"}
_UPDATE_SESSIONS = (
    f"UPDATE sessions SET ({', '.join(_UPDATED)}) = "
    f"({', '.join(f'item.value ->> {index}' for index in _UPDATED.values())}) "
    f"FROM json_each(?) AS item WHERE sessions.id = item.value ->> {len(rows.SESSION_CHANGING)}"
)
_SET_DUE = (
    "UPDATE sessions SET due_at_ms = item.value ->> 1 FROM json_each(?) AS item WHERE sessions.id = "
    "item.value ->> 0"
)
_EXPIRE_SESSIONS = (
    "UPDATE sessions SET expired = true, head_sequence = NULL, head_due_ms = NULL "
    "WHERE id IN (SELECT value FROM json_each(?))"
)
# The first open delivery of each session; due at once while it is leased, see `lease_due`.
_SET_HEADS = (
    "UPDATE sessions SET (head_sequence, head_due_ms) = ("
    "SELECT sequence, iif(state = 'leased', 0, max(deliveries.due_at_ms, item.value ->> 1)) "
    f"FROM deliveries INDEXED BY deliveries_open WHERE session_id = sessions.id AND state IN {rows.OPEN} "
    "ORDER BY sequence LIMIT 1) FROM json_each(?) AS item WHERE sessions.id = item.value ->> 0"
)
_INSERT_ENTRIES = (
    f"INSERT INTO log ({', '.join(rows.ENTRY)}) SELECT {rows.item_values(len(rows.ENTRY))} "
    "FROM json_each(?) AS item"
)
_LOAD_DELIVERIES = (
    f"SELECT {rows.of('deliveries', rows.DELIVERY)} FROM json_each(?) AS item CROSS JOIN deliveries "
    "ON deliveries.session_id = item.value ->> 0 AND deliveries.sequence = item.value ->> 1"
)
_CHANGING_DELIVERY = rows.DELIVERY[2:]
_PUT_DELIVERIES = (
    f"INSERT INTO deliveries ({', '.join(rows.DELIVERY)}) "
    f"SELECT {rows.item_values(len(rows.DELIVERY))} FROM json_each(?) AS item WHERE true "
    f"ON CONFLICT DO UPDATE SET ({', '.join(_CHANGING_DELIVERY)}) = "
    f"({', '.join(f'excluded.{column}' for column in _CHANGING_DELIVERY)})"
)
_CLOSE_DELIVERIES = (
    f"UPDATE deliveries INDEXED BY deliveries_open SET state = '{DeliveryState.FAILED}', due_at_ms = NULL "
    f"WHERE session_id IN (SELECT value FROM json_each(?)) AND state IN {rows.OPEN}"
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
# One that is there under the same name was left by a session that is gone.
_PUT_REQUESTS = (
    f"INSERT OR REPLACE INTO requests ({', '.join(rows.REQUEST)}) SELECT "
    f"{rows.item_values(len(rows.REQUEST))} FROM json_each(?) AS item"
)


def load(connection: sqlite3.Connection, wanted: Wanted) -> Loaded:
    """Loads what a batch wants. Raises sqlite3.Error."""

    def select(statement: str, keys: Iterable[Any]) -> list[rows.Row]:
        listed = list(keys)
        return connection.execute(statement, (orjson.dumps(listed).decode(),)).fetchall() if listed else []

    loaded = Loaded()
    for session in map(rows.session_of, select(_LOAD_SESSIONS, wanted.sessions)):
        loaded.sessions[session.id] = session
    for delivery in map(rows.delivery_of, select(_LOAD_DELIVERIES, wanted.deliveries)):
        loaded.deliveries[delivery.session_id, delivery.sequence] = delivery
    for agent in map(rows.agent_of, select(_LOAD_AGENTS, wanted.agents)):
        loaded.agents[agent.id] = agent
    for scope, request_id, fingerprint, answer, session_id, *entry in select(_LOAD_REQUESTS, wanted.requests):
        made = orjson.loads(answer)
        known: Session | Entry | None = rows.entry_of(tuple(entry)) if entry[0] is not None else None
        if isinstance(made, dict):
            known = rows.session_from_json(made)
        loaded.requests[scope, request_id] = Remembered(fingerprint, known, session_id)
    return loaded


def write(connection: sqlite3.Connection, written: Written) -> None:
    """Writes what a batch leaves; what it removes is removed already. Raises sqlite3.Error."""

    def execute(statement: str, items: Iterable[Any]) -> None:
        _execute(connection, statement, items)

    execute(_INSERT_SESSIONS, map(rows.session_row, written.created))
    execute(_UPDATE_SESSIONS, map(rows.session_changing_row, written.changed))
    execute(_SET_DUE, ((one.id, due_at_ms(one)) for one in written.nearer))
    change_counts(connection, written.counts)
    execute(_INSERT_ENTRIES, map(rows.entry_row, written.entries))
    execute(_PUT_DELIVERIES, map(rows.delivery_row, written.deliveries))
    execute(_SET_HEADS, written.heads.items())
    execute(_EXPIRE_SESSIONS, written.expired)
    execute(_CLOSE_DELIVERIES, written.expired)
    execute(_PUT_REQUESTS, map(rows.request_row, written.requests))


def set_due(connection: sqlite3.Connection, deadlines: Iterable[tuple[str, int | None]]) -> None:
    """Stores the deadlines of sessions, by their ids. Raises sqlite3.Error."""
    _execute(connection, _SET_DUE, deadlines)


def _execute(connection: sqlite3.Connection, statement: str, items: Iterable[Any]) -> None:
    listed = list(items)
    if listed:
        connection.execute(statement, (orjson.dumps(listed).decode(),))
