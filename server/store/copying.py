"""How a store is copied to another one: in which order, how far it has come, and whether both hold the same.

A row of a table is the same for both back ends, each of which has the SQL that reads and writes it. How far
the copy has come is noted in the target, in the transaction that writes the rows: so whatever ends it, the
next run goes on behind the last row that is there.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import zip_longest
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from server.store.values import CopyError

Row: TypeAlias = Sequence[Any]
"""A row of a table: its key, and then the rest, as SQLite has them (a truth value is 0 or 1)."""
Key: TypeAlias = tuple[str | int, ...]
Progress: TypeAlias = Callable[[int, int], None]
"""Is told how many rows are done, and of how many: each counts once as copied and once as verified."""

TABLES: Final = {
    "agents": 1,
    "seeded_agents": 1,
    "sessions": 1,
    "session_counts": 4,
    "log": 2,
    "deliveries": 2,
    "requests": 2,
}
"""What is copied, in this order, and how many columns are the key of a row, with which it begins."""
_MARKED: Final = ("agents", "sessions")
"""The tables by which a store is known again. Hardly anything happens that leaves both as they were."""

BATCH_ROWS: Final = 5_000
BATCH_BYTES: Final = 8 * 1024 * 1024
"""How many rows, and how much text, are written in a transaction: a row more than that at most."""
_LOOK_ROWS: Final = 1_000
"""After how many rows that are only read somebody is told, and may stop it."""
_NOTE_FORMAT: Final = 1

UNFINISHED: Final = (
    "{} is a copy that is not finished: repeat `eliza-sessions copy-store FROM TO`, which goes on with it, "
    "or remove it and begin anew"
)
"""What whoever opens such a store is told."""


class CopyStoppedError(Exception):
    """Somebody has stopped the copy. The target has what was written so far."""


class CopySource(ABC):
    """A store that nobody serves, to be read. All methods raise StoreOpenError where it cannot be.

    `place` names it for people.
    """

    place: str

    @abstractmethod
    def count_rows(self) -> int:
        """How many rows the tables have, about: rows that removed sessions have left may be among them."""

    @abstractmethod
    def read_rows(self, table: str, after: Key | None = None) -> Iterator[Row]:
        """The rows of a table in the order of their keys, from behind a key on.

        Without what removed sessions have left. Leases belong to nobody: their deliveries are due at once.
        """

    @abstractmethod
    def require_unserved(self) -> None:
        """Raises StoreOpenError where a server runs on the store."""


class CopyTarget(CopySource):
    """A store that is written to; nobody else can open it before it is finished.

    Raises CopyError where it does not take a row.
    """

    @abstractmethod
    def is_empty(self) -> bool:
        """Whether none of the tables has a row."""

    @abstractmethod
    def read_note(self) -> str | None:
        """How far a copy has come; None: none was begun, or it is finished."""

    @abstractmethod
    def begin(self, note: str) -> None:
        """Begins a copy."""

    @abstractmethod
    def write_rows(self, table: str, rows: Sequence[Row], before: str, after: str) -> None:
        """Writes rows and the note of that, which was `before`, in one transaction.

        Raises CopyError where another process has written meanwhile.
        """

    @abstractmethod
    def finish(self) -> None:
        """Ends the copy: from now on the store can be opened."""


class Note(NamedTuple):
    """How far a copy has come: the table and the key of the last row, and how many rows that were.

    `source`: where it is copied from, for people. `mark`: what that store is known by.
    """

    source: str
    mark: str
    table: str
    after: Key | None = None
    rows: int = 0
    format: int = _NOTE_FORMAT

    def to_text(self) -> str:
        """The note as it is stored."""
        return orjson.dumps(self._asdict()).decode()


def read_note(text: str) -> Note:
    """The note in its text. Raises CopyError where another version has written it."""
    values = orjson.loads(text)
    if values.get("format") != _NOTE_FORMAT or values["table"] not in TABLES:
        raise CopyError("the copy was begun by another version: go on with that one, or begin anew")
    after = values.pop("after")
    return Note(**values, after=None if after is None else tuple(after))


class Copied(NamedTuple):
    """How many rows of a table both stores have, and their digest."""

    table: str
    rows: int
    digest: str


def copy(
    source: CopySource, target: CopyTarget, progress: Progress, should_stop: Callable[[], bool]
) -> list[Copied]:
    """Copies a store, or goes on with it, verifies the copy and finishes it; returns what both hold.

    Raises CopyStoppedError soon after `should_stop` is true, StoreOpenError, and CopyError, saying why.
    """
    run = _Run(source, target, progress, should_stop)
    note = run.begin()
    run.copy_rows(note)
    copied = [run.verify(table) for table in TABLES]
    for store in (source, target):
        store.require_unserved()
    target.finish()
    return copied


def batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """The rows in lists that are written at once."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum([len(value) for value in row if type(value) is str])
        if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Run:
    """One run of a copy."""

    def __init__(
        self, source: CopySource, target: CopyTarget, progress: Progress, should_stop: Callable[[], bool]
    ) -> None:
        self._source, self._target = source, target
        self._tell, self._should_stop = progress, should_stop
        self._done = 0
        self._total = 2 * source.count_rows()

    def begin(self) -> Note:
        """Finds the note of a copy of this very store, or makes one in an empty target."""
        source, target = self._source, self._target
        mark = self._mark()
        if stored := target.read_note():
            note = read_note(stored)
            if note.mark != mark:
                raise CopyError(
                    f"{target.place} was begun as a copy of {note.source} as it then was, and {source.place} "
                    "is another store or has changed since: name an empty place, and begin anew"
                )
            return note
        if not target.is_empty():
            raise CopyError(f"{target.place} holds a store already: name an empty place")
        note = Note(source.place, mark, next(iter(TABLES)))
        target.begin(note.to_text())
        return note

    def copy_rows(self, note: Note) -> None:
        """Copies all rows behind those of the note."""
        self._advance(note.rows)
        tables = list(TABLES)
        for table in tables[tables.index(note.table) :]:
            after = note.after if table == note.table else None
            with closing(self._source.read_rows(table, after)) as rows:  # type: ignore[type-var]
                for batch in batches(rows):
                    written = note._replace(
                        table=table,
                        after=tuple(batch[-1][: TABLES[table]]),
                        rows=note.rows + len(batch),
                    )
                    self._target.write_rows(table, batch, note.to_text(), written.to_text())
                    note = written
                    self._advance(len(batch))

    def verify(self, table: str) -> Copied:
        """Reads a table of both stores. Raises CopyError where they are not the same."""
        digests = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
        counts, first = [0, 0], None
        with (
            closing(self._source.read_rows(table)) as read,  # type: ignore[type-var]
            closing(self._target.read_rows(table)) as copied,  # type: ignore[type-var]
        ):
            for number, pair in enumerate(zip_longest(read, copied)):
                lines = [None if row is None else _line(row) for row in pair]
                for side, line in enumerate(lines):
                    if line is not None:
                        digests[side].update(line)
                        counts[side] += 1
                if first is None and lines[0] != lines[1]:
                    first = next(row for row in pair if row is not None)[: TABLES[table]]
                if number % _LOOK_ROWS == _LOOK_ROWS - 1:
                    self._advance(_LOOK_ROWS)
        self._advance(counts[0] % _LOOK_ROWS)
        found = [
            f"{count} rows, digest {one.hexdigest()}" for count, one in zip(counts, digests, strict=True)
        ]
        if found[0] != found[1]:
            raise CopyError(
                f"the copy differs in {table}, first at {'/'.join(map(str, first or ()))}: "
                f"{self._source.place} has {found[0]}, {self._target.place} {found[1]}. Was one of them "
                "changed meanwhile? Remove the copy and begin anew"
            )
        return Copied(table, counts[0], digests[0].hexdigest())

    def _mark(self) -> str:
        """What the source is known by."""
        digest = hashlib.blake2b(digest_size=16)
        for table in _MARKED:
            with closing(self._source.read_rows(table)) as rows:  # type: ignore[type-var]
                for number, row in enumerate(rows):
                    digest.update(_line(row))
                    if number % _LOOK_ROWS == 0:
                        self._advance(0)
        return digest.hexdigest()

    def _advance(self, rows: int) -> None:
        self._done += rows
        self._tell(min(self._done, self._total), self._total)
        if self._should_stop():
            raise CopyStoppedError


def _line(row: Row) -> bytes:
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
