"""The counts of sessions in their table."""

import sqlite3
from collections.abc import Mapping
from typing import Final

from server.store import rows
from server.store.counts import CountKey
from server.store.sqlite.items import execute_rows

CHANGE_COUNTS: Final = (
    f"INSERT INTO session_counts ({', '.join(rows.COUNT)}) {{}} "
    "ON CONFLICT DO UPDATE SET sessions = sessions + excluded.sessions"
)
# SQLite would go through the table for a list of rows that stands behind IN itself.
REMOVE_EMPTY_COUNTS: Final = (
    "WITH item AS ({}) DELETE FROM session_counts WHERE sessions = 0 AND (state, agent_id, user_id, tenant) "
    "IN (SELECT column1, column2, column3, column4 FROM item)"
)


def change_counts(connection: sqlite3.Connection, changes: Mapping[CountKey, int]) -> None:
    """Adds to the counts of sessions, in the transaction that changes the sessions."""
    execute_rows(connection, CHANGE_COUNTS, ((*key, change) for key, change in changes.items() if change))
    execute_rows(connection, REMOVE_EMPTY_COUNTS, (key for key, change in changes.items() if change < 0))
