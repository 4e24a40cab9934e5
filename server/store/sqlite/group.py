"""A batch of operations in SQLite: what it wants is loaded, set by set, and what it leaves is written in one
step.

Python hands over the interpreter at every SQLite step. So a trigger has the statements that write a batch,
and a batch is a row that is inserted into its view. Outside a transaction, that step is one.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

import orjson

from server.domain.deliveries import DeliveryState
from server.domain.log import Entry
from server.domain.sessions import Session, due_at_ms
from server.store import rows
from server.store.batch import Loaded, Remembered, Wanted, Written
from server.store.sqlite.counts import CHANGE_COUNTS, REMOVE_EMPTY_COUNTS, count_items
from server.store.sqlite.items import item_values
from server.store.sqlite.removal import IS_THERE

_LOAD_SESSIONS = (
    f"SELECT {', '.join(rows.SESSION)} FROM sessions WHERE id IN (SELECT value FROM json_each(?))"
)
_INSERT_SESSIONS = (
    f"INSERT INTO sessions ({', '.join(rows.SESSION)}, due_at_ms) "
    f"SELECT {item_values(len(rows.SESSION) + 1)} FROM json_each(?) AS item"
)
# What few batches change, and indexes have: with these SQLite would write each session anew into them.
_SELDOM = {"expired", "failed_deliveries"}
_UPDATED = {column: index for index, column in enumerate(rows.SESSION_CHANGING) if column not in _SELDOM}
_UPDATE_SESSIONS = (
    f"UPDATE sessions SET ({', '.join(_UPDATED)}) = "
    f"({', '.join(f'item.value ->> {index}' for index in _UPDATED.values())}) "
    f"FROM json_each(?) AS item WHERE sessions.id = item.value ->> {len(rows.SESSION_CHANGING)}"
)
_SET_DUE = (
    "UPDATE sessions SET due_at_ms = item.value ->> 1 FROM json_each(?) AS item WHERE sessions.id = "
    "item.value ->> 0"
)
_SET_FAILED = (
    "UPDATE sessions SET failed_deliveries = item.value ->> 1 FROM json_each(?) AS item WHERE sessions.id = "
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
    f"INSERT INTO log ({', '.join(rows.ENTRY)}) SELECT {item_values(len(rows.ENTRY))} "
    "FROM json_each(?) AS item"
)
_LOAD_DELIVERIES = (
    f"SELECT {rows.of('deliveries', rows.DELIVERY)} FROM json_each(?) AS item CROSS JOIN deliveries "
    "ON deliveries.session_id = item.value ->> 0 AND deliveries.sequence = item.value ->> 1"
)
_CHANGING_DELIVERY = rows.DELIVERY[2:]
_PUT_DELIVERIES = (
    f"INSERT INTO deliveries ({', '.join(rows.DELIVERY)}) "
    f"SELECT {item_values(len(rows.DELIVERY))} FROM json_each(?) AS item WHERE true "
    f"ON CONFLICT DO UPDATE SET ({', '.join(_CHANGING_DELIVERY)}) = "
    f"({', '.join(f'excluded.{column}' for column in _CHANGING_DELIVERY)})"
)
# The index is named because SQLite would take the primary key, and read past every delivery that is closed.
_CLOSE_DELIVERIES = (
    f"UPDATE deliveries SET state = '{DeliveryState.FAILED}', due_at_ms = NULL WHERE (session_id, sequence) "
    "IN (SELECT session_id, sequence FROM deliveries INDEXED BY deliveries_open WHERE session_id IN "
    f"(SELECT value FROM json_each(?)) AND state IN {rows.OPEN})"
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
_PUT_REQUESTS = (
    f"INSERT OR REPLACE INTO requests ({', '.join(rows.REQUEST)}) SELECT "
    f"{item_values(len(rows.REQUEST))} FROM json_each(?) AS item"
)
STATEMENTS: Final = (
    ("created", _INSERT_SESSIONS),
    ("changed", _UPDATE_SESSIONS),
    ("nearer", _SET_DUE),
    ("failures", _SET_FAILED),
    ("counts", CHANGE_COUNTS),
    ("lowered", REMOVE_EMPTY_COUNTS),
    ("entries", _INSERT_ENTRIES),
    ("deliveries", _PUT_DELIVERIES),
    ("heads", _SET_HEADS),
    ("expired", _EXPIRE_SESSIONS),
    ("expired", _CLOSE_DELIVERIES),
    ("requests", _PUT_REQUESTS),
)
"""What writes a batch, in order: each with the column of the view that has its items, as a JSON array."""
_COLUMNS: Final = tuple(dict(STATEMENTS))
_VIEW: Final = f"CREATE TEMP VIEW batch_write AS SELECT {', '.join(f'NULL AS {name}' for name in _COLUMNS)}"
_TRIGGER: Final = (
    "CREATE TEMP TRIGGER write_batch INSTEAD OF INSERT ON batch_write BEGIN SELECT require_lock(); "
    + "".join(f"{statement.replace('?', f'NEW.{column}')}; " for column, statement in STATEMENTS)
    + "END"
)
WRITE: Final = f"INSERT INTO batch_write VALUES ({', '.join('?' * len(_COLUMNS))})"


def prepare_writing(connection: sqlite3.Connection, require_lock: Callable[[], None]) -> None:
    """Makes a connection ready for `write`, which calls `require_lock` within its transaction.

    Raises sqlite3.Error.
    """
    connection.create_function("require_lock", 0, require_lock)
    connection.execute(_VIEW)
    connection.execute(_TRIGGER)


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
    """Writes what a batch leaves; what it removes is removed already.

    Where no transaction is under way, it is durable then. Raises sqlite3.Error, having written nothing.
    """
    counts = count_items(written.counts)
    connection.execute(
        WRITE,
        (
            _json(map(rows.session_row, written.created)),
            _json(map(rows.session_changing_row, written.changed)),
            _json((one.id, due_at_ms(one)) for one in written.nearer),
            _json((one.id, one.failed_deliveries) for one in written.failures),
            _json(counts),
            _json(item for item in counts if item[-1] < 0),
            _json(map(rows.entry_row, written.entries)),
            _json(map(rows.delivery_row, written.deliveries)),
            _json(written.heads.items()),
            _json(written.expired),
            _json(map(rows.request_row, written.requests)),
        ),
    )


def set_due(connection: sqlite3.Connection, deadlines: Iterable[tuple[str, int | None]]) -> None:
    """Stores the deadlines of sessions, by their ids. Raises sqlite3.Error."""
    connection.execute(_SET_DUE, (_json(deadlines),))


def _json(items: Iterable[Any]) -> str | None:
    """The items of a statement, None where there are none."""
    listed = list(items)
    return orjson.dumps(listed).decode() if listed else None
