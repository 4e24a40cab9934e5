"""How sessions leave the SQLite file: each goes at once with its own row, what it leaves in other tables goes
in small pieces.
"""

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

import orjson

from server.domain.access import Scope
from server.domain.sessions import Session
from server.store import rows
from server.store.batch import Deleted, EraseStep
from server.store.counts import EXPIRED, CountKey, changed_counts, counts_of_state
from server.store.sqlite.counts import change_counts
from server.store.sqlite.scopes import in_scope, is_narrow, named
from server.store.values import Erased

STEP_SECONDS: Final = 0.005
"""How long a step may take of the writer, before other writes have their turn."""

_FIRST_ROWS: Final = 64
_MOST_ROWS: Final = 256
_LONG_PIECE_SECONDS: Final = 0.002
_SHORT_PIECE_SECONDS: Final = 0.001

IS_THERE: Final = "EXISTS (SELECT 1 FROM sessions WHERE sessions.id = {})"
"""A condition, of a session's id: the session is there. Rows of other tables may outlive it."""

_REMOVE: Final = (
    "INSERT INTO removed_sessions (id) SELECT id FROM sessions WHERE id IN (SELECT value FROM "
    "json_each(:ids))",
    "DELETE FROM sessions WHERE id IN (SELECT value FROM json_each(:ids))",
)
# Each takes those whose retention ended first. The indexes make the cost of this independent of how many
# sessions there are, and how many are still kept.
_MARK_EXPIRED: Final = tuple(
    f"INSERT INTO removed_sessions (id) SELECT id FROM sessions WHERE {ended} LIMIT :rows"
    for ended in (
        "expired AND retention_ms IS NULL AND expires_at_ms <= :expired_by_ms ORDER BY expires_at_ms, rowid",
        "expired AND retention_ms IS NOT NULL AND expires_at_ms + retention_ms <= :now_ms "
        "ORDER BY expires_at_ms + retention_ms, rowid",
    )
)
_REMOVE_MARKED: Final = (
    "SELECT agent_id, user_id, tenant FROM sessions WHERE id IN (SELECT id FROM removed_sessions)",
    "DELETE FROM sessions WHERE id IN (SELECT id FROM removed_sessions)",
)
# A piece looks at no more sessions than it may remove rows.
_REMOVED: Final = "SELECT id FROM removed_sessions ORDER BY rowid LIMIT"
# Where one of them has removed all that it may, the next ones have nothing left to do: an id goes when all of
# its rows have gone.
_TAKE_LEFT: Final = (
    "DELETE FROM requests WHERE (scope, id) IN (SELECT scope, requests.id "
    f"FROM ({_REMOVED} :rows) AS removed CROSS JOIN requests ON "
    "requests.session_id = removed.id LIMIT :left)",
    "DELETE FROM deliveries WHERE (session_id, sequence) IN (SELECT session_id, sequence "
    f"FROM ({_REMOVED} :rows) AS removed CROSS JOIN deliveries ON deliveries.session_id = removed.id LIMIT "
    ":left)",
    "DELETE FROM log WHERE rowid IN (SELECT log.rowid "
    f"FROM ({_REMOVED} :rows) AS removed CROSS JOIN log ON log.session_id = removed.id LIMIT :left)",
    f"DELETE FROM removed_sessions WHERE id IN ({_REMOVED} :left)",
)
_OF_USER: Final = in_scope(
    f"SELECT {', '.join(rows.SESSION)} FROM sessions INDEXED BY sessions_of_user "
    "WHERE user_id = :of{} LIMIT :rows"
)
_COUNT_ROWS: Final = {
    table: f"SELECT count(*) FROM {table} WHERE session_id IN (SELECT value FROM json_each(?))"
    for table in ("log", "deliveries", "requests")
}
# Without a condition, and without foreign keys, SQLite clears a table page by page instead of row by row.
_CLEAR: Final = tuple(
    f"DELETE FROM {table}"
    for table in ("requests", "deliveries", "log", "sessions", "removed_sessions", "session_counts")
)


def remove(connection: sqlite3.Connection, ids: Iterable[str]) -> None:
    """Removes sessions. What they leave in other tables is for `take_left`."""
    for statement in _REMOVE:
        connection.execute(statement, {"ids": orjson.dumps(list(ids)).decode()})


def take_left(connection: sqlite3.Connection, max_rows: int) -> int:
    """Removes at most `max_rows` rows that removed sessions have left.

    Returns how many, counting one for each session that is then done.
    """
    taken = 0
    for statement in _TAKE_LEFT:
        taken += connection.execute(statement, {"rows": max_rows, "left": max_rows - taken}).rowcount
    return taken


def take_expired(connection: sqlite3.Connection, now_ms: int, retention_ms: int, max_rows: int) -> int:
    """Does as `take_left`; where nothing is left, it first removes at most `max_rows` sessions whose
    retention is over: their own, or else `retention_ms`.

    Only those whose expiry has been written.
    """
    taken = take_left(connection, max_rows)
    if taken:
        return taken
    rows_left, expired_by_ms = max_rows, now_ms - retention_ms
    for mark in _MARK_EXPIRED:
        values = {"expired_by_ms": expired_by_ms, "now_ms": now_ms, "rows": rows_left}
        rows_left -= connection.execute(mark, values).rowcount
    count, remove_marked = _REMOVE_MARKED
    counts: Counter[CountKey] = Counter()
    for of in connection.execute(count).fetchall():
        counts.subtract(counts_of_state(EXPIRED, *of))
    connection.execute(remove_marked)
    change_counts(connection, counts)
    return take_left(connection, max_rows)


def erase(
    connection: sqlite3.Connection, user_id: str, scope: Scope, limit: int, pieces: "Pieces"
) -> EraseStep:
    """Removes a user's sessions in pieces, and what they leave; see `erase_user`."""
    gone: list[Session] = []
    counted: Counter[str] = Counter()

    def take_piece(max_rows: int) -> int:
        if taken := take_left(connection, max_rows):
            return taken
        values = named(scope, of=user_id, rows=max_rows)
        found = connection.execute(_OF_USER[is_narrow(scope)], values).fetchall()
        sessions = [rows.session_of(row) for row in found]
        ids = [session.id for session in sessions]
        for table, statement in _COUNT_ROWS.items():
            counted[table] += connection.execute(statement, (orjson.dumps(ids).decode(),)).fetchone()[0]
        remove(connection, ids)
        change_counts(connection, changed_counts((session, None) for session in sessions))
        gone.extend(sessions)
        return len(sessions)

    removed = pieces.take(limit, take_piece)
    erased = Erased(len(gone), counted["log"], counted["deliveries"], counted["requests"], removed)
    return EraseStep(removed, [Deleted(session) for session in gone], erased)


def clear(connection: sqlite3.Connection) -> None:
    """Removes all sessions, and all that they have in other tables."""
    for statement in _CLEAR:
        connection.execute(statement)


class Pieces:
    """Removes rows in pieces until STEP_SECONDS have passed, and suits the size of a piece to how long the
    last ones took.

    Rows differ: some have megabytes. The size follows the thread's own time: waiting for the interpreter says
    nothing about rows.
    """

    def __init__(self) -> None:
        self._rows = _FIRST_ROWS

    def take(self, limit: int, take_piece: Callable[[int], int]) -> int:
        """Calls `take_piece` with how many rows it may remove, until it has none, `limit` are removed or the
        time is over.

        Returns how many were removed, at least one where there are any.
        """
        taken, end_s = 0, time.monotonic() + STEP_SECONDS
        while taken < limit:
            start_s = time.thread_time()
            piece = take_piece(min(self._rows, limit - taken))
            self._suit(piece, time.thread_time() - start_s)
            taken += piece
            if not piece or time.monotonic() >= end_s:
                break
        return taken

    def _suit(self, piece: int, took_s: float) -> None:
        if took_s > _LONG_PIECE_SECONDS:
            self._rows = max(1, self._rows // 2)
        elif took_s < _SHORT_PIECE_SECONDS and piece == self._rows:
            self._rows = min(self._rows * 2, _MOST_ROWS)
