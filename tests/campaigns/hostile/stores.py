"""Stores that are full of something, as a service of schema 6 left them: made by its migrations and by SQL,
then migrated.
"""

import time
from pathlib import Path
from typing import Final

from server.store.sqlite import file as sqlite_file
from tests.store.old_schemas import make_old_store
from tests.support.service import ECHO, USER

SCHEMA: Final = 6
NOBODYS: Final = "00000000-0000-4000-8000-0000000000b0"
"""An agent of the kind `stream` that no worker works for."""
LONG: Final = "20000000-0000-4000-8000-000000000001"
"""A session with the agent `echo` that has very many messages, all of them answered."""
CROWDED: Final = "20000000-0000-4000-8000-000000000002"
"""A session with the agent that nobody works for, and very many entries."""
DOOMED: Final = "20000000-0000-4000-8000-0000000000{:02d}"
"""Sessions with very many entries, to be deleted."""
DOOMED_COUNT: Final = 3

HOUR_MS: Final = 3_600_000


def _numbers(count: int) -> str:
    return f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count}) "


def _sessions(
    count: int,
    session_id: str,
    created_ms: int,
    *,
    expires_ms: int,
    is_expired: bool,
    last: int = 0,
    agent: str = ECHO,
) -> str:
    """Sessions; `session_id` is SQL in which n is the number of each."""
    state = (
        f"1, 1, {last + is_expired}, {expires_ms}, NULL"
        if is_expired
        else f"0, 0, {last}, {created_ms}, {expires_ms - 300_000}"
    )
    return (
        f"{_numbers(count)} INSERT INTO sessions SELECT {session_id}, {session_id}, '{agent}', '{USER}', "
        f"'{{\"a\":1}}', 30.0, 1, "
        f"720.0, 5.0, {created_ms} - n, {created_ms}, {created_ms}, {expires_ms}, 0, {state} FROM numbers;\n"
    )


def _id(prefix: int) -> str:
    return f"printf('%08x-0000-4000-8000-{prefix:012d}', n)"


def _talk(session_id: str, count: int, now_ms: int, agent: str = ECHO) -> str:
    """A session of so many entries: messages and their replies in turn, and renewals behind them."""
    turns = count // 3
    first_ms = now_ms - count - 1000
    rest = "NULL, NULL, NULL, NULL"
    after = f"{now_ms + HOUR_MS}, 0, 0, 0"
    return (
        _sessions(
            1,
            f"'{session_id}'",
            now_ms - HOUR_MS,
            expires_ms=now_ms + HOUR_MS,
            is_expired=False,
            last=3 * turns,
            agent=agent,
        )
        + f"{_numbers(turns)} INSERT INTO log SELECT '{session_id}', 2 * n - 1, {first_ms} + 2 * n - 1, "
        f"'message', {after}, "
        f"printf('%08x-1000-4000-8000-{session_id[-12:]}', n), 0, 'a question', '{{}}', {rest}, NULL, NULL "
        "FROM numbers;\n"
        f"{_numbers(turns)} INSERT INTO log SELECT '{session_id}', 2 * n, {first_ms} + 2 * n, 'message', "
        f"{after}, "
        f"printf('%08x-2000-4000-8000-{session_id[-12:]}', n), 1, 'an answer', '{{}}', {rest}, 2 * n - 1, "
        "NULL FROM numbers;\n"
        f"{_numbers(turns)} INSERT INTO log SELECT '{session_id}', {2 * turns} + n, {first_ms} + "
        f"{2 * turns} + n, 'renewal', {after}, "
        f"NULL, NULL, NULL, NULL, {rest}, NULL, NULL FROM numbers;\n"
        f"{_numbers(turns)} INSERT INTO deliveries SELECT '{session_id}', 2 * n - 1, 'answered', 1, NULL, "
        "0, NULL FROM numbers;\n"
    )


def large(size: float, now_ms: int) -> str:
    """200,000 live sessions; one of 100,000 messages, one of 200,000 entries, and three of those that will be
    deleted.
    """
    many = round(200_000 * size)
    return (
        f"INSERT INTO agents VALUES ('{NOBODYS}', 'nobodys', 'stream', {now_ms}, {now_ms}, NULL, NULL, "
        "NULL, NULL, NULL);\n"
        + _sessions(many, _id(1), now_ms - HOUR_MS, expires_ms=now_ms + HOUR_MS, is_expired=False)
        + _talk(LONG, many * 3 // 4, now_ms)
        + _talk(CROWDED, many, now_ms, NOBODYS)
        + "".join(_talk(DOOMED.format(10 + number), many, now_ms) for number in range(DOOMED_COUNT))
    )


def expired(size: float, now_ms: int) -> str:
    """100,000 sessions that expired longer ago than they are kept, which the purge at the start takes."""
    long_ago_ms = now_ms - 48 * HOUR_MS
    count = round(100_000 * size)
    return _sessions(count, _id(2), long_ago_ms - HOUR_MS, expires_ms=long_ago_ms, is_expired=True) + (
        f"INSERT INTO log SELECT id, 1, {long_ago_ms}, 'expiry', {long_ago_ms}, 0, 0, 0, NULL, NULL, NULL, "
        "NULL, NULL, NULL, NULL, NULL, "
        f"NULL, NULL FROM sessions WHERE expired;\n"
    )


def overdue(size: float, now_ms: int) -> str:
    """200,000 sessions that fell due while nobody served."""
    return _sessions(
        round(200_000 * size), _id(3), now_ms - 2 * HOUR_MS, expires_ms=now_ms - HOUR_MS, is_expired=False
    )


def fill(path: Path, statements: str) -> None:
    """Makes the store of these statements at the schema of today."""
    path.parent.mkdir(parents=True, exist_ok=True)
    script = f"PRAGMA foreign_keys = ON; PRAGMA synchronous = OFF; BEGIN;\n{statements}COMMIT;"
    make_old_store(path, SCHEMA, {SCHEMA: script})
    sqlite_file.prepare(path).release()


def now_ms() -> int:
    return time.time_ns() // 1_000_000
