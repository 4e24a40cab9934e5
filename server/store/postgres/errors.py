"""What errors of PostgreSQL mean to the service. No other module knows their codes, but for those of the
statements that it writes.
"""

from typing import Final

import psycopg
import structlog

from server.domain.errors import ResourceExhaustedError, UnavailableError

AGAIN: Final = frozenset(("40001", "40P01"))
"""Serialization failure, deadlock: the same once more, at once."""
READ_ONLY: Final = "25006"
"""The server takes no writes, and has done nothing: another one may be the primary by now."""
_AWAY: Final = frozenset((READ_ONLY, "25P03", "53300"))
"""The connection was idle within a transaction for too long; too many connections."""
_AWAY_CLASSES: Final = ("08", "57P")
_HELD_UP: Final = frozenset((*AGAIN, "55P03", "57014"))
"""What waits for a lock or takes too long."""
_NO_ROOM: Final = frozenset(("53000", "53100", "53200", "53400"))
_UNUSABLE: Final = frozenset(("42501", "42P01", "3F000"))
"""A privilege was taken away, or a table."""
_UNUSABLE_CLASSES: Final = ("25", "28", "3D", "53", "55", "57", "58", "XX")
"""State of the transaction, credentials, database, resources, objects in use, operators, system, defects."""

log = structlog.get_logger()


def is_away(error: Exception) -> bool:
    """Whether the database cannot be used on this connection, and maybe on another one a little later."""
    if not isinstance(error, psycopg.Error):
        return False
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError)
    return state in _AWAY or state.startswith(_AWAY_CLASSES)


def is_passing(error: Exception) -> bool:
    """Whether an error may be over soon, and is nobody's fault: the database is away, or somebody holds a
    lock.
    """
    return is_away(error) or (isinstance(error, psycopg.Error) and error.sqlstate in _HELD_UP)


def public_error(error: Exception) -> Exception:
    """What a caller gets for an error: a typed one where the database cannot be used now, otherwise the error
    itself. Where the database is away its link logs that, once.
    """
    if not isinstance(error, psycopg.Error):
        return error
    state = error.sqlstate or ""
    if state in _NO_ROOM:
        log.error("the store has no room left", cause=str(error), code=state)
        return ResourceExhaustedError("The store has no room left")
    if is_passing(error) or state in _UNUSABLE or state.startswith(_UNUSABLE_CLASSES):
        if not is_away(error):
            log.error("the store cannot be used", cause=str(error), code=state)
        return UnavailableError("The store cannot be used now")
    return error
