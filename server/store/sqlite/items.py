"""Rows as a statement takes them: bound values of many rows in one SQLite step.

Python hands over the interpreter at every SQLite step; and SQLite reads bound values three times as fast as
JSON.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Final

STEPS: Final = (32, 16, 8)
"""How many rows a step has: the greatest that there are rows for; the rest go in one. SQLite keeps a program
for each.
"""


def execute_rows(connection: sqlite3.Connection, statement: str, items: Iterable[Sequence[Any]]) -> None:
    """Executes a statement for rows of the same length, which stand where it has `{}`.

    Raises sqlite3.Error.
    """
    left = list(items)
    while left:
        count = next((step for step in STEPS if step <= len(left)), len(left))
        text = with_rows(statement, count, len(left[0]))
        connection.execute(text, [*chain.from_iterable(left[:count])])
        del left[:count]


@lru_cache(maxsize=1024)
def with_rows(statement: str, rows: int, columns: int) -> str:
    """A statement for this number of rows and columns."""
    row = f"({', '.join('?' * columns)})"
    return statement.replace("{}", f"VALUES {', '.join([row] * rows)}")


def columns_of_item(indexes: Iterable[int]) -> str:
    """Values of `item`, the rows in a WITH clause, by their indexes from 0."""
    return ", ".join(f"item.column{index + 1}" for index in indexes)
