"""Ranges of indexes, each in order, read as one list.

There may be as many as tenants. A cursor for each would be a statement that is compiled for each, and Python
looks through all that are open whenever it opens one: for thousands of tenants that took seconds.
"""

import heapq
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Final, TypeAlias

from server.store.sqlite import rows

Range: TypeAlias = tuple[str, Mapping[str, object]]
"""A statement and its values. It has no LIMIT, and begins beside the place `:created_at_ms`, `:id`."""

_GROWTH: Final = 4
_MAX_ROWS: Final = 64
"""Of each range one row is read, and more the more of it is wanted: so many at a time."""


@contextmanager
def in_order(
    connection: sqlite3.Connection,
    ranges: Sequence[Range],
    place: Callable[[rows.Row], tuple[int, str]],
    *,
    newest_first: bool = False,
) -> Iterator[Iterator[rows.Row]]:
    """The rows of all ranges in order, as they are at one moment. `place` tells that of a row."""
    if len(ranges) == 1:
        with closing(connection.execute(*ranges[0])) as found:
            yield found
        return
    connection.execute("BEGIN")
    try:
        each = [_read(connection, *one, place) for one in ranges]
        yield heapq.merge(*each, key=place, reverse=newest_first)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _read(
    connection: sqlite3.Connection,
    statement: str,
    values: Mapping[str, object],
    place: Callable[[rows.Row], tuple[int, str]],
) -> Iterator[rows.Row]:
    """The rows of a range, a few at a time."""
    limited, count = f"{statement} LIMIT :rows", 1
    while True:
        found = connection.execute(limited, {**values, "rows": count}).fetchall()
        yield from found
        if len(found) < count:
            return
        created_at_ms, session_id = place(found[-1])
        values = {**values, "created_at_ms": created_at_ms, "id": session_id}
        count = min(count * _GROWTH, _MAX_ROWS)
