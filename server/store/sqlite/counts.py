"""The counts of sessions in their table."""

import sqlite3
from collections.abc import Mapping

import orjson

from server.store import rows
from server.store.counts import CountKey
from server.store.sqlite.items import item_values

CHANGE_COUNTS = (
    f"INSERT INTO session_counts ({', '.join(rows.COUNT)}) SELECT {item_values(len(rows.COUNT))} FROM "
    "json_each(?) AS item WHERE true "
    "ON CONFLICT DO UPDATE SET sessions = sessions + excluded.sessions"
)
REMOVE_EMPTY_COUNTS = (
    "DELETE FROM session_counts WHERE sessions = 0 AND (state, agent_id, user_id, tenant) "
    f"IN (SELECT {item_values(4)} FROM json_each(?) AS item)"
)


def count_items(changes: Mapping[CountKey, int]) -> list[tuple[str, str, str, str, int]]:
    """The items of CHANGE_COUNTS, and the negative ones those of REMOVE_EMPTY_COUNTS."""
    return [(*key, change) for key, change in changes.items() if change]


def change_counts(connection: sqlite3.Connection, changes: Mapping[CountKey, int]) -> None:
    """Adds to the counts of sessions, in the transaction that changes the sessions."""
    items = count_items(changes)
    connection.execute(CHANGE_COUNTS, (orjson.dumps(items).decode(),))
    lowered = [item for item in items if item[-1] < 0]
    connection.execute(REMOVE_EMPTY_COUNTS, (orjson.dumps(lowered).decode(),))
