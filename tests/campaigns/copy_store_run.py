"""`python -m tests.campaigns.copy_store_run PHASE ROW SIGNAL BATCH_ROWS FROM TO`: `copy-store`, which sends
itself a signal: in the midst of the transaction that writes a row, or when a row is verified.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from itertools import count

from server.cli import main
from server.store import copying
from server.store.copying import Row


class Interrupting(list[Row]):
    """A batch whose rows are counted while they are written."""

    def __iter__(self) -> Iterator[Row]:
        for row in super().__iter__():
            step("copy")
            yield row


phase, at, number, batch_rows, *arguments = sys.argv[1:]
steps = {"copy": count(1), "verify": count(1)}
is_copying = False


def step(of: str) -> None:
    if of == phase and next(steps[of]) == int(at):
        os.kill(os.getpid(), int(number))


original_batches, original_line = copying.batches, copying._line


def batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    global is_copying
    is_copying = True
    yield from map(Interrupting, original_batches(rows))


def line(row: Row) -> bytes:
    # Before the first row is copied the source is read to be known again.
    if is_copying:
        step("verify")
    return original_line(row)


if __name__ == "__main__":
    copying.BATCH_ROWS = int(batch_rows)
    copying.batches, copying._line = batches, line
    main(["copy-store", *arguments], prog_name="eliza-sessions")
