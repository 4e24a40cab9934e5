"""Ranges of indexes, each in order, read as one list.

There may be as many as tenants. A few have a cursor each. For thousands that took seconds: each would have a
statement of its own that is compiled, and Python looks through all open ones whenever it opens another.
"""

import heapq
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Final, TypeAlias

from server.store import rows

Range: TypeAlias = tuple[str, Mapping[str, object]]
"""A statement and its values. It has no LIMIT, and begins beside the place `:created_at_ms`, `:id`."""

_FEW: Final = 8
"""How many ranges have a cursor each."""

_GROWTH: Final = 4
_MAX_ROWS: Final = 64
"""Of each of many one row is read, and more the more of it is wanted: so many at a time."""


@contextmanager
def in_order(
    connection: sqlite3.Connection,
    ranges: Sequence[Range],
    place: Callable[[rows.Row], tuple[int, str]],
    *,
    newest_first: bool = False,
) -> Iterator[Iterator[rows.Row]]:
    """The rows of all ranges in order, as they are at one moment. `place` tells that of a row."""
    if len(ranges) <= _FEW:
        with ExitStack() as stack:
            found = [stack.enter_context(closing(connection.execute(*one))) for one in ranges]
            yield found[0] if len(found) == 1 else heapq.merge(*found, key=place, reverse=newest_first)
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
