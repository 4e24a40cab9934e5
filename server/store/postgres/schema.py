"""The schema of a PostgreSQL store: made and migrated by whoever comes first, under the lock of its version.

A migration has a part before, which only adds, so that servers of the version before go on; and maybe a part
after, which takes away what they used, once none of them runs any more.
"""

import re
from importlib import resources
from typing import Any, Final, TypeAlias

import psycopg
import structlog

from server.store.copying import UNFINISHED
from server.store.postgres.place import OLDEST_SERVER, Place
from server.store.values import StoreOpenError

Connection: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"

_MAKE: Final = (
    "CREATE TABLE IF NOT EXISTS schema_version (one boolean PRIMARY KEY CHECK (one), "
    "version integer NOT NULL, cleared integer NOT NULL)",
    "INSERT INTO schema_version VALUES (true, 0, 0) ON CONFLICT DO NOTHING",
)
_IS_OURS: Final = (
    "SELECT to_regclass('schema_version') IS NOT NULL, NOT EXISTS (SELECT 1 FROM pg_tables "
    "WHERE schemaname = current_schema())"
)
_LOCK: Final = "SELECT version, cleared FROM schema_version FOR UPDATE"
_IS_LOCKED: Final = "SELECT NOT EXISTS (SELECT 1 FROM schema_version FOR UPDATE SKIP LOCKED)"
_READ: Final = "SELECT version FROM schema_version"
COPY_TABLE: Final = "store_copy"
"""The table that a copy has until it is finished."""
_HAS_NOTE: Final = f"SELECT to_regclass('{COPY_TABLE}') IS NOT NULL"
# By the server's own time, as `replicas` says it.
_OLDER_RUNS: Final = (
    "SELECT EXISTS (SELECT 1 FROM replicas WHERE schema_version < %s "
    "AND alive_until_ms > extract(epoch FROM clock_timestamp()) * 1000)"
)
_TRIES: Final = 5
_MADE_MEANWHILE: Final = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.DuplicateTable,
    psycopg.errors.DuplicateObject,
)
"""What two that make the same table at the same time meet: IF NOT EXISTS does not keep them from it."""

log = structlog.get_logger()


def schema_version() -> int:
    """The schema that this version works with: the number of its last migration."""
    return max(_migrations())


def prepare(place: Place, *, is_copying: bool = False) -> None:
    """Makes the store's tables where they are missing, and migrates them. Only whoever is copying may open a
    copy that is not finished.

    Raises StoreOpenError, saying why.
    """
    try:
        with place.connect_now("migrations") as link:
            _check_server(place, link)
            _make(place, link)
            _migrate(place, link, is_copying=is_copying)
    except psycopg.Error as error:
        raise unusable(place, error) from error


def stored_schema(place: Place) -> int:
    """The schema of the store. Raises StoreOpenError."""
    try:
        with place.connect_now("check") as link:
            _check_server(place, link)
            return require_known(place, link)
    except psycopg.Error as error:
        raise unusable(place, error) from error


def has_store(link: Connection) -> bool:
    """Whether the tables of a store are there. Raises psycopg.Error."""
    return bool(link.execute(_IS_OURS).fetchall()[0][0])


def require_known(place: Place, link: Connection, *, is_copying: bool = False) -> int:
    """The schema of the store.

    Raises StoreOpenError where there is no store, a newer one, or a copy that is not finished, unless it is
    opened to copy.
    """
    if not has_store(link):
        raise StoreOpenError(f"{place} holds no store")
    ((version,),) = link.execute(_READ).fetchall()
    _check_version(place, version)
    if not is_copying:
        _require_whole(place, link)
    return int(version)


def unusable(place: Place, error: psycopg.Error) -> StoreOpenError:
    """What an operator is told where the database cannot be used."""
    why = " ".join(str(error).split()) or type(error).__name__
    return StoreOpenError(f"DATABASE_URL names {place}, which cannot be used: {why}")


def _check_server(place: Place, link: Connection) -> None:
    """Raises StoreOpenError for a server or a database that this version cannot use."""
    if link.info.server_version < OLDEST_SERVER:
        raise StoreOpenError(
            f"{place} is PostgreSQL {link.info.server_version // 10_000}: version 15 or later is needed"
        )
    ((encoding,),) = link.execute("SELECT current_setting('server_encoding')").fetchall()
    if encoding != "UTF8":
        raise StoreOpenError(f"{place} has the encoding {encoding}: make the database with UTF8")


def _make(place: Place, link: Connection) -> None:
    ((is_ours, is_empty),) = link.execute(_IS_OURS).fetchall()
    if is_ours:
        return
    if not is_empty:
        raise StoreOpenError(
            f"{place} has tables of another program in its schema: name another database in DATABASE_URL"
        )
    for tries in range(1, _TRIES + 1):
        try:
            with link.transaction():
                for statement in _MAKE:
                    link.execute(statement)
        except _MADE_MEANWHILE:
            # Another server makes the same table at the same time.
            if tries == _TRIES:
                raise
        else:
            return


def _require_whole(place: Place, link: Connection) -> None:
    """Raises StoreOpenError for a copy that is not finished."""
    if link.execute(_HAS_NOTE).fetchall()[0][0]:
        raise StoreOpenError(UNFINISHED.format(place))


def _migrate(place: Place, link: Connection, *, is_copying: bool) -> None:
    """Each step in a transaction of its own, under the lock of the version; another server waits for it."""
    migrations = _migrations()
    while True:
        with link.transaction():
            # A migration may take longer than a statement of the service.
            link.execute("SET LOCAL statement_timeout = 0")
            link.execute("SET LOCAL lock_timeout = 0")
            if link.execute(_IS_LOCKED).fetchall()[0][0]:
                log.info("waits for whoever migrates or copies the store")
            ((version, cleared),) = link.execute(_LOCK).fetchall()
            _check_version(place, version)
            if not is_copying:
                _require_whole(place, link)
            if version < max(migrations):
                link.execute(migrations[version + 1][0].encode())
                link.execute("UPDATE schema_version SET version = version + 1")
                log.info("migrated the store" if version else "made the tables", schema=version + 1)
                continue
            if cleared >= version:
                return
            if link.execute(_OLDER_RUNS, [cleared + 1]).fetchall()[0][0]:
                log.info("servers of an older version run: a part of the migration waits for the next start")
                return
            if migrations[cleared + 1][1]:
                link.execute(migrations[cleared + 1][1].encode())
            link.execute("UPDATE schema_version SET cleared = cleared + 1")


def _check_version(place: Place, version: int) -> None:
    if version > schema_version():
        raise StoreOpenError(
            f"{place} was written by a newer version (schema {version}, this one knows {schema_version()}): "
            "upgrade"
        )


def _migrations() -> dict[int, tuple[str, str]]:
    """The parts before and after of each migration, by its number."""
    directory = resources.files("server.store.postgres") / "migrations"
    parts: dict[int, dict[str, str]] = {}
    for file in directory.iterdir():
        if found := re.fullmatch(r"(\d{4})_\w+\.(pre|post)\.sql", file.name):
            parts.setdefault(int(found[1]), {})[found[2]] = file.read_text()
    if sorted(parts) != list(range(1, len(parts) + 1)) or not all("pre" in part for part in parts.values()):
        raise StoreOpenError("the migrations are not numbered from 1 without gaps")
    return {number: (part["pre"], part.get("post", "")) for number, part in parts.items()}
