"""How sessions leave the PostgreSQL tables: each goes at once with its own row, what it leaves in other
tables goes in small pieces.
"""

from collections import Counter
from typing import Any, Final

from server.domain.access import EVERYTHING, Scope
from server.domain.sessions import Session
from server.store.batch import Deleted, EraseStep
from server.store.counts import EXPIRED, CountKey, changed_counts, counts_of_state
from server.store.postgres import rows
from server.store.postgres.counts import change_counts
from server.store.postgres.place import Link
from server.store.postgres.scopes import in_scope, named
from server.store.values import Erased

MOST_ROWS: Final = 256
"""How many rows a piece removes; also how many go together with a session that is deleted."""

_REMOVE: Final = (
    "WITH gone AS (DELETE FROM sessions WHERE id = ANY(%s::uuid[]) RETURNING id) "
    "INSERT INTO removed_sessions (id) SELECT id FROM gone ON CONFLICT DO NOTHING"
)
_LEFT: Final = "(SELECT %(rows)s - {})"
_COUNT: Final = "(SELECT count(*) FROM {})"


def _take(ids: str) -> str:
    """Removes at most `rows` rows that sessions have left, counting one for each that is then done.

    `ids`: an array, of which the planner expects few, so that it looks up their rows by an index.
    """
    gone: list[str] = []
    parts = []
    for name, key in (("requests", "scope, id"), ("deliveries", _BY_SEQUENCE), ("log", _BY_SEQUENCE)):
        left = _LEFT.format(" - ".join(["0", *gone]))
        parts.append(
            f"gone_{name} AS (DELETE FROM {name} WHERE ({key}) IN (SELECT {key} FROM {name} "
            f"WHERE session_id = ANY({ids}) LIMIT {left}) RETURNING 1)"
        )
        gone.append(_COUNT.format(f"gone_{name}"))
    # Where one of them has removed all that it may, the next have nothing left to do: an id goes when all of
    # its rows have gone.
    parts.append(
        f"gone_ids AS (DELETE FROM removed_sessions WHERE id IN (SELECT unnest({ids}) LIMIT "
        f"{_LEFT.format(' - '.join(gone))}) RETURNING 1)"
    )
    gone.append(_COUNT.format("gone_ids"))
    return f"{', '.join(parts)} SELECT {' + '.join(gone)}"


_BY_SEQUENCE: Final = "session_id, sequence"
# A piece looks at no more sessions than it may remove rows: a number that the planner sees, too. Another
# server's piece has others.
_TAKE_LEFT: Final = (
    f"WITH removed AS MATERIALIZED (SELECT id FROM removed_sessions ORDER BY id LIMIT {MOST_ROWS} "
    f"FOR UPDATE SKIP LOCKED), {_take('ARRAY(SELECT id FROM removed)')}"
)
_TAKE_OF: Final = f"WITH {_take('%(ids)s::uuid[]')}"
# Of the sessions that expired first.
_OLDEST: Final = {
    column: f"SELECT id, agent_id, user_id, tenant FROM sessions WHERE {column} <= %s "
    f"ORDER BY {column}, id LIMIT %s FOR UPDATE SKIP LOCKED"
    for column in ("expired_at_ms", "kept_until_ms")
}
_OF_USER: Final = in_scope(
    f"SELECT {', '.join(rows.SESSION)} FROM sessions WHERE user_id = %(of)s::uuid{{}} "
    "ORDER BY id LIMIT %(rows)s FOR UPDATE"
)
_COUNT_ROWS: Final = (
    "SELECT (SELECT count(*) FROM log WHERE session_id = ANY(%(ids)s::uuid[])), "
    "(SELECT count(*) FROM deliveries WHERE session_id = ANY(%(ids)s::uuid[])), "
    "(SELECT count(*) FROM requests WHERE session_id = ANY(%(ids)s::uuid[]))"
)
# The planner believes the number that it sees, and looks each row up instead of reading the table.
_FORGET: Final = (
    "DELETE FROM requests WHERE (scope, id) IN (SELECT scope, id FROM (SELECT scope, id FROM requests "
    f"WHERE created_at_ms <= %s ORDER BY created_at_ms LIMIT {MOST_ROWS} FOR UPDATE SKIP LOCKED) AS oldest "
    "LIMIT %s)"
)
# Sessions first: that is where groups begin.
_CLEAR: Final = "TRUNCATE sessions, session_counts, log, deliveries, requests, removed_sessions"

STATEMENTS: Final = {
    "remove": _REMOVE,
    "take_left": _TAKE_LEFT,
    "take_of": _TAKE_OF,
    "oldest": _OLDEST["expired_at_ms"],
    "oldest_kept": _OLDEST["kept_until_ms"],
    "of_user": _OF_USER[True],
    "count_rows": _COUNT_ROWS,
    "forget": _FORGET,
}
"""All of them by name, for the tests of their plans."""


async def remove_in_group(link: Link, ids: list[str]) -> None:
    """Removes sessions, within a pipeline, and as much of what they leave as most have. The purge takes the
    rest. Raises psycopg.Error.
    """
    await link.execute(_REMOVE, [ids])
    await link.execute(_TAKE_OF, {"ids": ids, "rows": MOST_ROWS})


async def take_left(link: Link, most: int) -> int:
    """Removes at most `most` rows that removed sessions have left.

    Returns how many, counting one for each session that is then done. Raises psycopg.Error.
    """
    found = await (await link.execute(_TAKE_LEFT, {"rows": min(most, MOST_ROWS)})).fetchone()
    return int(found[0]) if found else 0


async def take_expired(link: Link, now_ms: int, retention_ms: int, most: int, lane: int) -> int:
    """Does as `take_left`; where nothing is left, it first removes sessions whose retention is over: their
    own, or else `retention_ms`. Raises psycopg.Error.
    """
    if taken := await take_left(link, most):
        return taken
    oldest: list[Any] = []
    for column, by_ms in (("expired_at_ms", now_ms - retention_ms), ("kept_until_ms", now_ms)):
        left = min(most, MOST_ROWS) - len(oldest)
        oldest += await (await link.execute(_OLDEST[column], [by_ms, left])).fetchall()
    if not oldest:
        return 0
    counts: Counter[CountKey] = Counter()
    for _, *of in oldest:
        counts.subtract(counts_of_state(EXPIRED, *of))
    await link.execute(_REMOVE, [sorted(row[0] for row in oldest)])
    await change_counts(link, counts, lane)
    return await take_left(link, most)


async def erase(link: Link, user_id: str, scope: Scope, most: int, lane: int) -> EraseStep:
    """Takes a step of removing a user's sessions; see `erase_user`. Raises psycopg.Error."""
    if taken := await take_left(link, most):
        return EraseStep(taken, [], Erased(rows=taken))
    statement = _OF_USER[scope != EVERYTHING]
    values = named(scope, of=user_id, rows=min(most, MOST_ROWS))
    found = await (await link.execute(statement, values)).fetchall()
    gone: list[Session] = [rows.session_of(row) for row in found]
    if not gone:
        return EraseStep(0, [], Erased())
    ids = [session.id for session in gone]
    ((entries, deliveries, requests),) = await (await link.execute(_COUNT_ROWS, {"ids": ids})).fetchall()
    await link.execute(_REMOVE, [ids])
    await change_counts(link, changed_counts((session, None) for session in gone), lane)
    erased = Erased(len(gone), entries, deliveries, requests, len(gone))
    return EraseStep(len(gone), [Deleted(session) for session in gone], erased)


async def forget_requests(link: Link, made_by_ms: int, most: int) -> int:
    """Forgets at most `most` requests that were made by an instant. Raises psycopg.Error."""
    return (await link.execute(_FORGET, [made_by_ms, min(most, MOST_ROWS)])).rowcount


async def clear(link: Link, *_: Any) -> None:
    """Removes all sessions, and all that they have in other tables. Raises psycopg.Error."""
    await link.execute(_CLEAR)
