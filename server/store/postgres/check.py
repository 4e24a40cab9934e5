"""Whether everything in a PostgreSQL store fits together: what `eliza-sessions check` looks for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from server.store.postgres import rows
from server.store.postgres.schema import Connection

_KINDS: Final = (
    ("CASE WHEN expired THEN 'expired' ELSE 'live' END", "''", "''", "true"),
    ("'warned'", "''", "''", "warned AND NOT expired"),
    ("CASE WHEN expired THEN 'expired' ELSE 'live' END", "agent_id::text", "''", "true"),
    ("CASE WHEN expired THEN 'expired' ELSE 'live' END", "''", "user_id::text", "true"),
    ("CASE WHEN expired THEN 'expired' ELSE 'live' END", "agent_id::text", "user_id::text", "true"),
)
COUNTED: Final = " UNION ALL ".join(
    f"SELECT {state} AS state, {agent} AS agent_id, {user} AS user_id, tenant FROM sessions WHERE {which}"
    for state, agent, user, which in _KINDS
)
"""A row for each session and each count that it is in."""
_KNOWN: Final = "(SELECT id FROM sessions UNION ALL SELECT id FROM removed_sessions)"
"""The sessions that rows of other tables may belong to: those that are there, and those whose rows the purge
is about to take.
"""
_IS_BEHIND: Final = f"NOT EXISTS (SELECT 1 FROM {_KNOWN} AS known WHERE known.id = session_id)"

QUESTIONS: Final = {
    "session {0}: it is there, but was removed": ("SELECT id FROM sessions JOIN removed_sessions USING (id)"),
    "session {0}: its log should have the sequences up to {1}, but has {2} from {3} to {4}": (
        # A copy of a SQLite store may have sessions whose purge an older version has begun: with their log.
        "SELECT sessions.id, last_sequence, count(sequence), min(sequence), max(sequence) FROM sessions "
        "LEFT JOIN log ON session_id = id GROUP BY id "
        "HAVING count(sequence) <> coalesce(max(sequence) - min(sequence) + 1, 0) "
        "OR coalesce(max(sequence), CASE WHEN expired THEN last_sequence ELSE 0 END) <> last_sequence "
        "OR (coalesce(min(sequence), 1) <> 1 AND NOT expired)"
    ),
    "session {0}: the times of its log do not increase at sequence {1}": (
        "SELECT session_id, sequence FROM (SELECT session_id, sequence, at_ms, lag(at_ms) OVER (PARTITION BY "
        "session_id ORDER BY sequence) AS before_ms FROM log) AS steps WHERE at_ms <= before_ms"
    ),
    "session {0}: there are entries of its log, but no session": (
        f"SELECT DISTINCT session_id FROM log WHERE {_IS_BEHIND}"
    ),
    "sessions that are {0}, of agent '{1}' and user '{2}' (empty: any), of tenant '{3}': {5} are there, but "
    "{4} are counted": (
        "SELECT state, agent_id, user_id, tenant, sum(counted), sum(there) FROM ("
        "SELECT state, agent_id, user_id, tenant, sessions AS counted, 0 AS there FROM session_counts "
        f"UNION ALL SELECT state, agent_id, user_id, tenant, 0, 1 FROM ({COUNTED}) AS sessions_there"
        ") AS both_sides GROUP BY state, agent_id, user_id, tenant HAVING sum(counted) <> sum(there)"
    ),
    "entry {0}-{1}: its size is {2} by its row": (
        "SELECT session_id, sequence, size FROM log WHERE size < coalesce(length(content), 0) "
        "+ coalesce(length(metadata), 0) + coalesce(length(attachments), 0)"
    ),
    "message {0}-{1}: it has no delivery": (
        "SELECT session_id, sequence FROM log WHERE message_id IS NOT NULL AND NOT is_agent "
        "AND NOT EXISTS (SELECT 1 FROM deliveries WHERE deliveries.session_id = log.session_id "
        "AND deliveries.sequence = log.sequence) "
        "AND EXISTS (SELECT 1 FROM sessions WHERE sessions.id = log.session_id AND NOT expired)"
    ),
    "delivery {0}-{1}: it has no message": (
        "SELECT session_id, sequence FROM deliveries WHERE NOT EXISTS (SELECT 1 FROM log WHERE "
        "log.session_id = deliveries.session_id AND log.sequence = deliveries.sequence "
        "AND message_id IS NOT NULL AND NOT is_agent) "
        "AND EXISTS (SELECT 1 FROM sessions WHERE sessions.id = deliveries.session_id)"
    ),
    "delivery {0}-{1}: it is answered, but there is no reply": (
        "SELECT session_id, sequence FROM deliveries WHERE state = 'answered' AND attempts > 0 "
        "AND NOT EXISTS (SELECT 1 FROM log WHERE log.session_id = deliveries.session_id "
        "AND answers = deliveries.sequence) "
        "AND EXISTS (SELECT 1 FROM sessions WHERE sessions.id = deliveries.session_id)"
    ),
    "delivery {0}-{1}: there is a reply, but it is {2}": (
        "SELECT deliveries.session_id, deliveries.sequence, state FROM log JOIN deliveries "
        "ON deliveries.session_id = log.session_id AND deliveries.sequence = answers "
        "WHERE state <> 'answered'"
    ),
    "delivery {0}-{1}: it is another agent's than its session": (
        "SELECT session_id, sequence FROM deliveries JOIN sessions ON id = session_id "
        "WHERE deliveries.agent_id <> sessions.agent_id"
    ),
    "delivery {0}-{1}: it is open, but its session has expired": (
        "SELECT session_id, sequence FROM deliveries JOIN sessions ON id = session_id "
        f"WHERE state IN {rows.OPEN} AND expired"
    ),
    "delivery {0}-{1}: it is open, but nobody knows when it is due": (
        f"SELECT session_id, sequence FROM deliveries WHERE state IN {rows.OPEN} AND due_at_ms IS NULL"
    ),
    "delivery {0}-{1}: it is {2}, and yet to be given at {3}, or in the hands of {4}": (
        "SELECT session_id, sequence, state, head_due_ms, holder FROM deliveries WHERE "
        f"(state NOT IN {rows.OPEN} AND (head_due_ms IS NOT NULL OR holder IS NOT NULL)) "
        "OR (state <> 'leased' AND holder IS NOT NULL) OR (head_due_ms IS NOT NULL AND holder IS NOT NULL)"
    ),
    "session {0}: {2} of its deliveries are open, but {1} are counted": (
        "SELECT sessions.id, open_deliveries, count(session_id) FROM sessions LEFT JOIN deliveries "
        f"ON session_id = sessions.id AND state IN {rows.OPEN} "
        "GROUP BY sessions.id HAVING open_deliveries <> count(session_id)"
    ),
    # Of each session with open deliveries exactly the first is to be given, or in somebody's hands.
    "session {0}: its first open delivery is {1}, but {2} may be given": (
        "SELECT session_id, min(sequence), coalesce(string_agg(sequence::text, ',') "
        "FILTER (WHERE head_due_ms IS NOT NULL OR holder IS NOT NULL), 'none') "
        f"FROM deliveries WHERE state IN {rows.OPEN} GROUP BY session_id "
        "HAVING count(*) FILTER (WHERE head_due_ms IS NOT NULL OR holder IS NOT NULL) <> 1 "
        "OR min(sequence) <> min(sequence) FILTER (WHERE head_due_ms IS NOT NULL OR holder IS NOT NULL)"
    ),
    "session {0}: it is due at {1} by its row, but at {2} in truth": (
        # By a millisecond at most the two are rounded otherwise.
        "SELECT id, due_at_ms, true_ms FROM (SELECT id, due_at_ms, CASE WHEN warned THEN expires_at_ms ELSE "
        "least(expires_at_ms, expires_at_ms - round(warning_threshold_minutes * 60000)) END AS true_ms "
        "FROM sessions WHERE NOT expired) AS live WHERE coalesce(due_at_ms, true_ms + 2) > true_ms + 1"
    ),
    "session {0}: it has expired, and is due at {1}, or the purge waits for {2}": (
        "SELECT id, due_at_ms, expired_at_ms FROM sessions WHERE (expired AND due_at_ms IS NOT NULL) "
        "OR expired_at_ms IS DISTINCT FROM CASE WHEN expired AND retention_ms IS NULL THEN expires_at_ms END"
    ),
    "session {0}: {2} of its deliveries have failed, but {1} are counted": (
        "SELECT sessions.id, failed_deliveries, count(session_id) FROM sessions LEFT JOIN deliveries "
        "ON session_id = sessions.id AND state = 'failed' AND NOT expired "
        "GROUP BY sessions.id HAVING failed_deliveries <> count(session_id)"
    ),
    "request {1} of {0}: its session is gone": f"SELECT scope, id FROM requests WHERE {_IS_BEHIND}",
    "request {1} of {0}: it is kept with another session, {2}": (
        "SELECT scope, id, session_id FROM requests WHERE scope LIKE 'session:%' "
        "AND substr(scope, length('session:') + 1) <> session_id::text"
    ),
    "request {1} of {0}: its answer is not there": (
        "SELECT scope, requests.id FROM requests JOIN sessions ON sessions.id = session_id "
        "WHERE answer ~ '^[0-9]{1,18}$' AND NOT expired AND NOT EXISTS (SELECT 1 FROM log WHERE "
        "log.session_id = requests.session_id "
        "AND sequence = CASE WHEN answer ~ '^[0-9]{1,18}$' THEN answer::bigint END)"
    ),
}
"""What to print for each row that a question finds: a sound store has none."""

_TABLES: Final = ("log", "deliveries", "requests")


def problems(link: Connection) -> Iterator[str]:
    """What is wrong with the store, a line each, as of one moment even while it is written to.

    Raises psycopg.Error.
    """
    with _one_moment(link):
        for text, question in QUESTIONS.items():
            for row in link.execute(question.encode()):
                yield text.format(*row)


def summary(link: Connection) -> str:
    """What the store holds, for people. Raises psycopg.Error."""
    there = "WHERE session_id NOT IN (SELECT id FROM removed_sessions)"
    with _one_moment(link):
        counts = [
            link.execute(f"SELECT count(*) FROM {table}".encode()).fetchall()[0][0]
            for table in ("sessions", *(f"{table} {there}" for table in _TABLES))
        ]
    return "{} sessions, {} entries, {} deliveries, {} requests".format(*counts)


@contextmanager
def _one_moment(link: Connection) -> Iterator[None]:
    """What the block reads is as of one moment, however long it takes. Raises psycopg.Error."""
    with link.transaction():
        link.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        link.execute("SET LOCAL statement_timeout = 0")
        # Whoever is told of a problem may take their time.
        link.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        yield
