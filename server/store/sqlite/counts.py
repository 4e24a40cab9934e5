"""The counts of sessions in their table."""

import sqlite3
from collections.abc import Mapping

import orjson

from server.store.counts import CountKey
from server.store.sqlite import rows

_CHANGE_COUNTS = (
    f"INSERT INTO session_counts ({', '.join(rows.COUNT)}) SELECT {rows.item_values(len(rows.COUNT))} FROM "
    "json_each(?) AS item WHERE true "
    "ON CONFLICT DO UPDATE SET sessions = sessions + excluded.sessions"
)
_REMOVE_EMPTY_COUNTS = (
    "DELETE FROM session_counts WHERE sessions = 0 AND (state, agent_id, user_id) "
    f"IN (SELECT {rows.item_values(3)} FROM json_each(?) AS item)"
)


def change_counts(connection: sqlite3.Connection, changes: Mapping[CountKey, int]) -> None:
    """Adds to the counts of sessions, in the transaction that changes the sessions."""
    items = [(*key, change) for key, change in changes.items() if change]
    if items:
        connection.execute(_CHANGE_COUNTS, (orjson.dumps(items).decode(),))
    if removed := [item for item in items if item[-1] < 0]:
        connection.execute(_REMOVE_EMPTY_COUNTS, (orjson.dumps(removed).decode(),))
