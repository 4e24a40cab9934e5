"""Copying a store, without any database: the order, the note, what is refused, and the verification."""

from collections.abc import Iterator, Sequence
from itertools import count

import orjson
import pytest

from server.store import copying
from server.store.copying import (
    TABLES,
    CopySource,
    CopyStoppedError,
    CopyTarget,
    Key,
    Note,
    Row,
    batches,
    copy,
    read_note,
)
from server.store.values import CopyError, StoreOpenError

CONTENT: dict[str, list[Row]] = {
    "agents": [("a1", "one"), ("a2", "two")],
    "seeded_agents": [("a1",)],
    "sessions": [(f"s{number}", number) for number in range(5)],
    "session_counts": [("live", "", "", "", 5)],
    "log": [(f"s{session}", sequence, "text") for session in range(5) for sequence in range(1, 8)],
    "deliveries": [(f"s{session}", 1, None) for session in range(5)],
    "requests": [("scope", "id", "\U0001f600")],
}
ROWS = sum(map(len, CONTENT.values()))


class InMemory(CopyTarget):
    """A store of lists, whose writes may fail: before they are committed, or afterwards."""

    def __init__(self, place: str, tables: dict[str, list[Row]] | None = None) -> None:
        self.place = place
        self.tables = {name: list((tables or {}).get(name, [])) for name in TABLES}
        self.note: str | None = None
        self.served = False
        self.finished = 0
        self.batches: list[tuple[str, int]] = []
        self.trouble: Iterator[str] = iter(())

    def count_rows(self) -> int:
        return sum(map(len, self.tables.values()))

    def read_rows(self, table: str, after: Key | None = None) -> Iterator[Row]:
        for row in self.tables[table]:
            if after is None or tuple(row[: len(after)]) > after:
                yield row

    def require_unserved(self) -> None:
        if self.served:
            raise StoreOpenError(f"{self.place} is served")

    def is_empty(self) -> bool:
        return not self.count_rows()

    def read_note(self) -> str | None:
        return self.note

    def begin(self, note: str) -> None:
        self.note = note

    def write_rows(self, table: str, rows: Sequence[Row], before: str, after: str) -> None:
        assert self.note == before
        trouble = next(self.trouble, "")
        if trouble == "before":
            raise StoreOpenError("away")
        self.tables[table] += rows
        self.note = after
        self.batches.append((table, len(rows)))
        if trouble == "after":
            raise StoreOpenError("away")

    def finish(self) -> None:
        self.note = None
        self.finished += 1


def never() -> bool:
    return False


def run(source: CopySource, target: CopyTarget, should_stop: object = never) -> list[tuple[int, int]]:
    told: list[tuple[int, int]] = []
    copy(source, target, lambda done, total: told.append((done, total)), should_stop)
    return told


@pytest.fixture
def source() -> InMemory:
    return InMemory("from", CONTENT)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "BATCH_ROWS", 3)


def test_all_tables_are_copied_in_order_and_verified(source: InMemory) -> None:
    target = InMemory("to")
    told: list[tuple[int, int]] = []
    copied = copy(source, target, lambda done, total: told.append((done, total)), never)
    assert target.tables == source.tables
    assert [one.table for one in copied] == list(TABLES) == list(dict(target.batches))
    assert [one.rows for one in copied] == [len(CONTENT[table]) for table in TABLES]
    assert len({one.digest for one in copied}) == len(TABLES)
    assert (target.note, target.finished) == (None, 1)
    assert told[-1] == (2 * ROWS, 2 * ROWS)
    assert told == sorted(told)


def test_a_copy_goes_on_behind_the_last_row_whichever_write_it_stopped_at(source: InMemory) -> None:
    for trouble in ("before", "after"):
        for number in count():
            target = InMemory("to")
            target.trouble = iter([""] * number + [trouble])
            try:
                run(source, target)
            except StoreOpenError:
                assert (target.finished, target.note is None) == (0, False)
                told = run(source, target)
                assert told[-1] == (2 * ROWS, 2 * ROWS)
            else:
                break
            assert target.tables == source.tables
        assert number == len(target.batches) >= 20


def test_a_copy_that_is_stopped_again_and_again_comes_to_its_end(source: InMemory) -> None:
    target = InMemory("to")
    for _ in range(ROWS):
        asked = count()
        try:
            # Behind the marks and the first step of the copy.
            run(source, target, lambda asked=asked: next(asked) > 3)
        except CopyStoppedError:
            continue
        break
    # Verifying asks more often than that.
    assert target.finished == 0
    assert target.tables == source.tables
    run(source, target)
    assert target.finished == 1


def test_batches_are_bounded_by_rows_and_by_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "BATCH_BYTES", 100)
    rows = [("k", "x" * length) for length in (1, 1, 1, 1, 200, 1, 98, 1)]
    assert [[len(row[1]) for row in batch] for batch in batches(rows)] == [[1, 1, 1], [1, 200], [1, 98], [1]]
    assert list(batches([])) == []


def test_only_an_empty_place_is_copied_to(source: InMemory) -> None:
    target = InMemory("to", {"agents": [("a9", "mine")]})
    with pytest.raises(CopyError, match="to holds a store already: name an empty place"):
        run(source, target)
    assert (target.note, target.tables["agents"]) == (None, [("a9", "mine")])


@pytest.mark.parametrize("table", ["agents", "sessions"])
def test_a_copy_of_another_store_is_not_gone_on_with(source: InMemory, table: str) -> None:
    target = InMemory("to")
    target.trouble = iter(["after"])
    with pytest.raises(StoreOpenError):
        run(source, target)
    source.tables[table][0] = (source.tables[table][0][0], "changed")
    before = dict(target.tables)
    with pytest.raises(CopyError, match="to was begun as a copy of from as it then was"):
        run(source, target)
    assert target.tables == before


def test_the_same_store_in_another_place_is_gone_on_with(source: InMemory) -> None:
    target = InMemory("to")
    target.trouble = iter(["", "after"])
    with pytest.raises(StoreOpenError):
        run(source, target)
    run(InMemory("moved", source.tables), target)
    assert target.tables == source.tables


def test_a_note_of_another_version_is_refused() -> None:
    note = Note("from", "mark", "log", ("s1", 7), 9)
    assert read_note(note.to_text()) == note
    assert read_note(Note("from", "mark", "agents").to_text()).after is None
    for change in ({"format": 2}, {"table": "other"}):
        text = orjson.dumps(note._asdict() | change).decode()
        with pytest.raises(CopyError, match="begun by another version"):
            read_note(text)


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (lambda rows: rows.pop(), "s4/7"),
        (lambda rows: rows.append(("s9", 1, "more")), "s9/1"),
        (lambda rows: rows.__setitem__(3, ("s0", 4, "texu")), "s0/4"),
        (lambda rows: rows.insert(0, ("s0", 0, "more")), "s0/1"),
    ],
    ids=["one is missing", "one is too many", "one is another", "one is before"],
)
def test_a_copy_that_differs_is_not_finished(source: InMemory, change: object, first: str) -> None:
    target = InMemory("to")
    finish = target.write_rows

    def write_rows(table: str, rows: Sequence[Row], before: str, after: str) -> None:
        finish(table, rows, before, after)
        if table == "requests":
            change(target.tables["log"])

    target.write_rows = write_rows  # type: ignore[method-assign]
    with pytest.raises(
        CopyError, match=f"the copy differs in log, first at {first}: from has 35 rows, digest"
    ):
        run(source, target)
    assert (target.finished, target.note is None) == (0, False)


@pytest.mark.parametrize("which", ["source", "target"])
def test_a_store_that_is_served_at_the_end_is_not_finished(source: InMemory, which: str) -> None:
    target = InMemory("to")
    {"source": source, "target": target}[which].served = True
    with pytest.raises(StoreOpenError, match="is served"):
        run(source, target)
    assert target.finished == 0
