"""What the commands do with a PostgreSQL store."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import psycopg

from server.store.copying import CopySource, CopyTarget
from server.store.postgres.check import problems, summary
from server.store.postgres.copying import open_source, open_target
from server.store.postgres.place import Place
from server.store.postgres.schema import prepare, require_known, schema_version, stored_schema, unusable
from server.store.tools import Progress, StoreTools
from server.store.values import CopyError, StoreOpenError

_BACK_UP: Final = (
    "PostgreSQL is backed up by its own tools: pg_dump, or pg_basebackup with an archive of its log"
)
_RESTORE: Final = (
    "PostgreSQL is restored by its own tools: pg_restore what pg_dump made, or a base backup with its archive"
)


class PostgresTools(StoreTools):
    """See StoreTools."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.place = str(place)
        self.schema = schema_version()

    def stored_schema(self) -> int:
        return stored_schema(self._place)

    def migrate(self) -> None:
        prepare(self._place)

    def check(self, on_problem: Callable[[str], None]) -> str:
        try:
            with self._place.connect_now("check") as link:
                version = require_known(self._place, link)
                if version < self.schema:
                    raise StoreOpenError(
                        f"{self.place} is of schema {version}, and schema {self.schema} is checked: "
                        "bring it up to date first, with eliza-sessions migrate"
                    )
                for problem in problems(link):
                    on_problem(problem)
                return summary(link)
        except psycopg.Error as error:
            raise unusable(self._place, error) from error

    def compact(self, progress: Progress) -> tuple[int, int]:
        raise StoreOpenError(f"{self.place}: autovacuum keeps it small; VACUUM FULL rewrites a table")

    def back_up(self, target: Path, progress: Progress) -> None:
        raise CopyError(_BACK_UP)

    def restore(self, source: Path, progress: Progress) -> None:
        raise CopyError(_RESTORE)

    def copy_source(self) -> AbstractContextManager[CopySource]:
        return open_source(self._place)

    def copy_target(self) -> AbstractContextManager[CopyTarget]:
        return open_target(self._place)
