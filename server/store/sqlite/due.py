"""Sessions of the SQLite file that are due: claimed, and a rule applied to them, in one transaction.

The column `due_at_ms` is a lower bound: a message moves a deadline away, and leaves the column and its index
alone.
"""

import sqlite3
import uuid
from typing import Final

import structlog

from server.domain.access import EVERYTHING
from server.domain.errors import DomainError
from server.domain.sessions import Outcome, Rule, due_at_ms
from server.store.batch import Batch, Claimed
from server.store.contract import PUT_OFF_MS
from server.store.operations import Apply
from server.store.sqlite.group import load, set_due, write

_DUE: Final = "SELECT id FROM sessions WHERE due_at_ms <= ? ORDER BY due_at_ms LIMIT ?"

log = structlog.get_logger()


def apply_due(connection: sqlite3.Connection, rule: Rule, due_ms: int, limit: int, now_ms: int) -> Claimed:
    """See Store. To be called within a transaction. Raises sqlite3.Error where the file cannot be written."""
    ids = [row[0] for row in connection.execute(_DUE, (due_ms, limit))]
    return Claimed(len(ids), _apply(connection, ids, rule, max(now_ms, due_ms)))


def _apply(connection: sqlite3.Connection, ids: list[str], rule: Rule, now_ms: int) -> list[Outcome]:
    """Applies the rule to all of them, or else to each alone; puts off what fails alone."""
    connection.execute("SAVEPOINT due")
    try:
        batch = Batch([Apply(session_id, rule, EVERYTHING) for session_id in ids])
        outcomes: list[Outcome] = []
        for result in batch.apply(load(connection, batch.wanted()), lambda: now_ms):
            if isinstance(result, DomainError):
                raise result
            if isinstance(result, Outcome):
                outcomes.append(result)
        write(connection, batch.written())
        set_due(connection, ((outcome.session.id, due_at_ms(outcome.session)) for outcome in outcomes))
    except Exception as error:
        if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
            raise
        connection.execute("ROLLBACK TO due")
        if len(ids) > 1:
            outcomes = [
                outcome for session_id in ids for outcome in _apply(connection, [session_id], rule, now_ms)
            ]
        else:
            outcomes = []
            set_due(connection, [(ids[0], now_ms + PUT_OFF_MS)])
            log.exception("a session cannot meet its deadline", error_id=uuid.uuid4().hex, session_id=ids[0])
    connection.execute("RELEASE due")
    return outcomes
