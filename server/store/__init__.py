"""Where sessions are kept: the Store interface (`contract`), what all back ends share (`batch`, `pages`),
`sqlite`, and `postgres`, which is loaded only where it is asked for.
"""

import re
from pathlib import Path
from typing import Final, Protocol

from server.clock import Clock, SystemClock, TestClock
from server.store.contract import MAX_WRITES, Store
from server.store.options import DEFAULT_OPTIONS, SharedOptions
from server.store.sqlite.store import SqliteStore
from server.store.sqlite.tools import SqliteTools
from server.store.tools import StoreTools
from server.store.values import StoreOpenError
from server.telemetry.telemetry import OFF, Telemetry
from server.telemetry.traces import NO_TRACES, Traces

SQLITE_SCHEME = "sqlite:///"
POSTGRES_SCHEMES: Final = ("postgresql://", "postgres://")


def is_shared(database_url: str) -> bool:
    """Whether several servers may serve the store that a DATABASE_URL names."""
    return database_url.startswith(POSTGRES_SCHEMES)


def build_clock(database_url: str, *, is_test: bool) -> Clock:
    """The clock of a service with this store: where several share it, the database has the time.

    Raises StoreOpenError.
    """
    if is_shared(database_url):
        return _postgres().build_clock(is_test=is_test)
    return TestClock() if is_test else SystemClock()


async def open_store(
    database_url: str,
    clock: Clock,
    max_writes: int = MAX_WRITES,
    telemetry: Telemetry = OFF,
    traces: Traces = NO_TRACES,
    options: SharedOptions = DEFAULT_OPTIONS,
) -> Store:
    """Opens the store that a DATABASE_URL names, making or migrating it first. Raises StoreOpenError, saying
    why.

    At most `max_writes` may wait for the disk at a time. The clock is one of `build_clock`.
    """
    if is_shared(database_url):
        return await _postgres().open_store(database_url, clock, max_writes, telemetry, traces, options)
    return await SqliteStore.open(_sqlite_path(database_url), clock, max_writes, telemetry, traces)


def maintenance(database_url: str, options: SharedOptions = DEFAULT_OPTIONS) -> StoreTools:
    """What the commands do with the store that a DATABASE_URL names.

    Raises StoreOpenError for a URL that this version cannot open.
    """
    if is_shared(database_url):
        return _postgres().tools(database_url, options)
    return SqliteTools(_sqlite_path(database_url))


class _Door(Protocol):
    """How the PostgreSQL store is come to; see `server.store.postgres.door`."""

    def build_clock(self, *, is_test: bool) -> Clock: ...

    async def open_store(
        self,
        database_url: str,
        clock: Clock,
        max_writes: int,
        telemetry: Telemetry,
        traces: Traces,
        options: SharedOptions,
    ) -> Store: ...

    def tools(self, database_url: str, options: SharedOptions) -> StoreTools: ...


def _postgres() -> _Door:
    """The door of the PostgreSQL store. Raises StoreOpenError where its driver is not installed."""
    try:
        from server.store.postgres import door
    except ImportError as error:
        raise StoreOpenError(
            f"a PostgreSQL store needs its driver, pip install '.[postgres]' in the repository: {error}"
        ) from error
    return door


def _sqlite_path(database_url: str) -> Path:
    """The path in a DATABASE_URL. Raises StoreOpenError for one that this version cannot open."""
    path = database_url.removeprefix(SQLITE_SCHEME)
    if path in (database_url, ""):
        shown = re.sub(r"(://[^:@/]*):.*@", r"\1:…@", database_url)
        # libpq's own form ends a value at a blank, or quotes it: nothing behind it is shown.
        shown = re.sub(r"(password\s*=\s*).*", r"\1…", shown, flags=re.DOTALL | re.IGNORECASE)
        raise StoreOpenError(
            f"DATABASE_URL is {shown!r}: this version opens sqlite:///PATH and postgresql://… only"
        )
    if "?" in path or "#" in path:
        # Other programs take options there; here they would be a part of the file's name.
        raise StoreOpenError(
            f"DATABASE_URL is {database_url!r}: it takes no options, and a PATH in sqlite:///PATH no ? and "
            "no #"
        )
    if path == ":memory:":
        raise StoreOpenError(f"DATABASE_URL is {database_url!r}: the store is a file, sqlite:///PATH")
    return Path(path)
