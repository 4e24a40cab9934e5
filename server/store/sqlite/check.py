"""Whether everything in a SQLite store fits together: what `eliza-sessions check` looks for."""

import sqlite3
from collections.abc import Iterator
from typing import Final

from server.store import rows

COUNTED: Final = (
    "SELECT iif(expired, 'expired', 'live') AS state, '' AS agent_id, '' AS user_id, tenant FROM sessions "
    "UNION ALL SELECT 'warned', '', '', tenant FROM sessions WHERE warned AND NOT expired "
    "UNION ALL SELECT iif(expired, 'expired', 'live'), agent_id, '', tenant FROM sessions "
    "UNION ALL SELECT iif(expired, 'expired', 'live'), '', user_id, tenant FROM sessions "
    "UNION ALL SELECT iif(expired, 'expired', 'live'), agent_id, user_id, tenant FROM sessions"
)
"""A row for each session and each count that it is in."""
_KNOWN: Final = "(SELECT id FROM sessions UNION ALL SELECT id FROM removed_sessions)"
"""The sessions that rows of other tables may belong to: those that are there, and those whose rows the purge
is about to take.
"""

_QUESTIONS: Final = {
    "session {0}: it is there, but was removed": "SELECT id FROM sessions WHERE id IN (SELECT id FROM "
    "removed_sessions)",
    "session {0}: its log should have the sequences up to {1}, but has {2} from {3} to {4}": (
        # The purge of an older version took the log of an expired session from its start, in steps, and the
        # session last.
        "SELECT sessions.id, last_sequence, count(sequence), min(sequence), max(sequence) FROM sessions "
        "LEFT JOIN log ON session_id = id "
        "GROUP BY id HAVING NOT (count(sequence) = coalesce(max(sequence) - min(sequence) + 1, 0) "
        "AND (coalesce(max(sequence), 0) = last_sequence AND coalesce(min(sequence), 1) = 1 "
        "OR expired AND coalesce(max(sequence), last_sequence) = last_sequence))"
    ),
    "session {0}: the times of its log do not increase at sequence {1}": (
        "SELECT session_id, sequence FROM (SELECT session_id, sequence, at_ms, "
        "lag(at_ms) OVER (PARTITION BY session_id ORDER BY sequence) AS before_ms FROM log) WHERE at_ms <= "
        "before_ms"
    ),
    "session {0}: there are entries of its log, but no session": (
        f"SELECT DISTINCT session_id FROM log WHERE session_id NOT IN {_KNOWN}"
    ),
    "session {0}: what it has in JSON cannot be read": "SELECT id FROM sessions WHERE NOT "
    "json_valid(metadata)",
    "sessions that are {0}, of agent '{1}' and user '{2}' (empty: any), of tenant '{3}': {5} are there, but "
    "{4} are counted": (
        "SELECT state, agent_id, user_id, tenant, sum(counted), sum(there) FROM ("
        "SELECT state, agent_id, user_id, tenant, sessions AS counted, 0 AS there FROM session_counts "
        f"UNION ALL SELECT state, agent_id, user_id, tenant, 0, 1 FROM ({COUNTED})"
        ") GROUP BY state, agent_id, user_id, tenant HAVING sum(counted) != sum(there)"
    ),
    "message {0}-{1}: what it has in JSON cannot be read": (
        "SELECT session_id, sequence FROM log WHERE message_id IS NOT NULL AND NOT (json_valid(metadata) "
        "AND json_valid(coalesce(attachments, '[]')) AND json_valid(coalesce(thought, '\"\"')) AND "
        "json_valid(coalesce(actions, '[]')))"
    ),
    "message {0}-{1}: it has no delivery": (
        "SELECT log.session_id, log.sequence FROM log JOIN sessions ON id = log.session_id "
        "LEFT JOIN deliveries USING (session_id, sequence) "
        # The purge of an older version took the deliveries of an expired session first.
        "WHERE message_id IS NOT NULL AND NOT is_agent AND state IS NULL AND NOT expired"
    ),
    "delivery {0}-{1}: it has no message": (
        "SELECT session_id, sequence FROM deliveries WHERE NOT EXISTS (SELECT 1 FROM log WHERE "
        "log.session_id = deliveries.session_id "
        "AND log.sequence = deliveries.sequence AND message_id IS NOT NULL AND NOT is_agent)"
    ),
    "delivery {0}-{1}: it is answered, but there is no reply": (
        "SELECT session_id, sequence FROM deliveries WHERE state = 'answered' AND attempts > 0 AND NOT "
        "EXISTS "
        "(SELECT 1 FROM log WHERE log.session_id = deliveries.session_id AND answers = deliveries.sequence)"
    ),
    "delivery {0}-{1}: there is a reply, but it is {2}": (
        "SELECT deliveries.session_id, deliveries.sequence, state FROM log JOIN deliveries "
        "ON deliveries.session_id = log.session_id AND deliveries.sequence = answers WHERE state != "
        "'answered'"
    ),
    "delivery {0}-{1}: it is open, but its session has expired": (
        "SELECT session_id, sequence FROM deliveries JOIN sessions ON id = session_id WHERE state IN "
        f"{rows.OPEN} AND expired"
    ),
    "delivery {0}-{1}: it is open, but nobody knows when it is due": (
        f"SELECT session_id, sequence FROM deliveries WHERE state IN {rows.OPEN} AND due_at_ms IS NULL"
    ),
    "session {0}: {2} of its deliveries are open, but {1} are counted": (
        "SELECT sessions.id, open_deliveries, count(session_id) FROM sessions "
        f"LEFT JOIN deliveries ON session_id = sessions.id AND state IN {rows.OPEN} "
        "GROUP BY sessions.id HAVING open_deliveries != count(session_id)"
    ),
    "session {0}: {2} of its deliveries have failed, but {1} are counted": (
        "SELECT sessions.id, failed_deliveries, count(session_id) FROM sessions "
        "LEFT JOIN deliveries ON session_id = sessions.id AND state = 'failed' AND NOT expired "
        "GROUP BY sessions.id HAVING failed_deliveries != count(session_id)"
    ),
    "session {0}: by its row {1} is its first open delivery, but that is {2}": (
        "SELECT id, head_sequence, first FROM sessions LEFT JOIN (SELECT session_id, min(sequence) AS first "
        f"FROM deliveries WHERE state IN {rows.OPEN} GROUP BY session_id) ON session_id = id "
        "WHERE head_sequence IS NOT first"
    ),
    "session {0}: its first open delivery is to be given at {1}, and rests until {2}": (
        "SELECT id, head_due_ms, iif(state = 'leased', 0, deliveries.due_at_ms) AS due_ms FROM sessions "
        "JOIN deliveries ON session_id = id AND sequence = head_sequence "
        f"WHERE state IN {rows.OPEN} AND (head_due_ms IS NULL OR head_due_ms < due_ms OR "
        "state = 'leased' AND head_due_ms > 0)"
    ),
    "session {0}: it is due at {1} by its row, but at {2} in truth": (
        # By a millisecond at most the two are rounded otherwise.
        "SELECT id, due_at_ms, iif(warned, expires_at_ms, min(expires_at_ms, expires_at_ms - "
        "round(warning_threshold_minutes * 60000))) "
        "AS true_ms FROM sessions WHERE NOT expired AND coalesce(due_at_ms, true_ms + 2) > true_ms + 1"
    ),
    "session {0}: it has expired, and is due": "SELECT id FROM sessions WHERE expired AND due_at_ms IS NOT "
    "NULL",
    "request {1} of {0}: its session is gone": "SELECT scope, id FROM requests WHERE session_id NOT IN "
    f"{_KNOWN}",
    "request {1} of {0}: it is kept with another session, {2}": (
        "SELECT scope, id, session_id FROM requests WHERE session_id IS NOT CASE WHEN scope GLOB 'session:*' "
        "THEN substr(scope, length('session:') + 1) WHEN json_valid(answer) THEN answer ->> 'id' END"
    ),
    "request {1} of {0}: its answer is not there": (
        "SELECT scope, requests.id FROM requests JOIN sessions ON sessions.id = session_id WHERE scope GLOB "
        "'session:*' "
        "AND NOT expired AND NOT EXISTS (SELECT 1 FROM log WHERE session_id = sessions.id AND sequence = "
        "CAST(answer AS INTEGER))"
    ),
}
"""What to print for each row that a question finds: a sound store has none."""


def problems(connection: sqlite3.Connection) -> Iterator[str]:
    """What is wrong with the database, a line each, as of one moment even while it is written to.

    Raises sqlite3.Error.
    """
    connection.execute("BEGIN")
    try:
        for (line,) in connection.execute("PRAGMA integrity_check").fetchall():
            if line != "ok":
                yield f"the file is damaged: {line}"
        for text, question in _QUESTIONS.items():
            for row in connection.execute(question):
                yield text.format(*row)
    finally:
        connection.execute("ROLLBACK")


def summary(connection: sqlite3.Connection) -> str:
    """What the store holds, for people."""
    removed = "WHERE session_id NOT IN (SELECT id FROM removed_sessions)"
    tables = ("sessions", f"log {removed}", f"deliveries {removed}", f"requests {removed}")
    counts = [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]
    return "{} sessions, {} entries, {} deliveries, {} requests".format(*counts)
