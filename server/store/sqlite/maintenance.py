"""What the SQLite file needs done from time to time, and tells its operator."""

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from server.domain.access import EVERYTHING, Scope
from server.domain.errors import UnavailableError
from server.store.batch import EraseStep
from server.store.counts import EXPIRED, LIVE
from server.store.maintenance import Maintenance
from server.store.sqlite.compact import read_pragma, shrink
from server.store.sqlite.file import connect, schema_version
from server.store.sqlite.lists import count
from server.store.sqlite.reading import Reading
from server.store.sqlite.removal import Pieces, clear, erase, take_expired
from server.store.sqlite.rewrite import finish_erasure
from server.store.sqlite.writer import SqliteWriter, no_sessions
from server.store.values import Description, Erased, Sizes


class SqliteMaintenance(Reading, Maintenance):
    """See Maintenance."""

    _writer: SqliteWriter

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._purged, self._forgotten, self._erased, self._shrunk = Pieces(), Pieces(), Pieces(), Pieces()

    async def describe(self) -> Description:
        def read(connection: sqlite3.Connection) -> Description:
            return Description(
                str(self._path),
                schema_version(),
                sum(sum(count(connection, state, EVERYTHING).values()) for state in (LIVE, EXPIRED)),
                read_pragma(connection, "freelist_count") * read_pragma(connection, "page_size"),
                gives_back=bool(read_pragma(connection, "auto_vacuum")),
            )

        return self._read(read)

    async def purge(self, now_ms: int, limit: int, *, retention_ms: int = 0) -> int:
        def work(connection: sqlite3.Connection, _now_ms: int) -> int:
            return self._purged.take(limit, lambda rows: take_expired(connection, now_ms, retention_ms, rows))

        return await self._writer.run(work)

    async def forget_requests(self, made_by_ms: int, limit: int) -> int:
        statement = (
            "DELETE FROM requests WHERE (scope, id) IN (SELECT scope, id FROM requests WHERE "
            "created_at_ms <= ? LIMIT ?)"
        )

        def work(connection: sqlite3.Connection, now_ms: int) -> int:
            return self._forgotten.take(
                limit, lambda rows: connection.execute(statement, (made_by_ms, rows)).rowcount
            )

        return await self._writer.run(work, changed=no_sessions)

    async def shrink(self) -> bool:
        return await self._writer.run(lambda connection, now_ms: shrink(connection, self._shrunk))

    async def erase_user(self, user_id: str, *, scope: Scope, limit: int) -> Erased:
        if scope.user_id not in (None, user_id):
            return Erased()

        def work(connection: sqlite3.Connection, now_ms: int) -> EraseStep:
            return erase(connection, user_id, scope, limit, self._erased)

        return (await self._writer.run(work)).erased

    async def finish_erasure(self) -> list[str]:
        def work(connection: sqlite3.Connection, now_ms: int) -> list[str]:
            # On the writer's own connection the copy would be made in memory.
            with closing(connect(self._path)) as rewriting:
                return finish_erasure(self._path, rewriting)

        return await self._writer.run(work, in_transaction=False)

    async def clear_sessions(self) -> None:
        def work(connection: sqlite3.Connection, now_ms: int) -> None:
            clear(connection)

        await self._writer.run(work)

    async def measure(self) -> Sizes:
        if self._closed:
            raise UnavailableError("The service is stopping")
        # On a thread, because a file may be on a file system that hangs.
        return await asyncio.to_thread(_measure, self._path)

    async def check_writable(self) -> None:
        def work(connection: sqlite3.Connection, now_ms: int) -> None:
            # The same value again: SQLite writes the page all the same, and that is what is wanted.
            connection.execute(
                f"PRAGMA user_version = {connection.execute('PRAGMA user_version').fetchone()[0]}"
            )

        if self._unreadable:
            await self._read_long(self._check_readable)
            self._unreadable = False
        await self._writer.run(work, changed=no_sessions)


def _measure(path: Path) -> Sizes:
    """How large the file and its WAL are. Raises OSError."""
    try:
        wal_bytes = Path(f"{path}-wal").stat().st_size
    except FileNotFoundError:
        wal_bytes = 0
    disk = shutil.disk_usage(path.parent)
    return Sizes(path.stat().st_size, wal_bytes, disk.free, disk.total)
