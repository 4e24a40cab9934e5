"""Where sessions are kept: the Store interface (`contract`), what all back ends share (`batch`, `pages`), and
`sqlite`.
"""

import re
from pathlib import Path

from server.clock import Clock
from server.store.contract import MAX_WRITES, Store
from server.store.sqlite.store import SqliteStore
from server.store.sqlite.tools import SqliteTools
from server.store.tools import StoreTools
from server.store.values import StoreOpenError
from server.telemetry.telemetry import OFF, Telemetry
from server.telemetry.traces import NO_TRACES, Traces

SQLITE_SCHEME = "sqlite:///"


async def open_store(
    database_url: str,
    clock: Clock,
    max_writes: int = MAX_WRITES,
    telemetry: Telemetry = OFF,
    traces: Traces = NO_TRACES,
) -> Store:
    """Opens the store that a DATABASE_URL names, making or migrating it first. Raises StoreOpenError, saying
    why.

    At most `max_writes` may wait for the disk at a time.
    """
    return await SqliteStore.open(_sqlite_path(database_url), clock, max_writes, telemetry, traces)


def maintenance(database_url: str) -> StoreTools:
    """What the commands do with the store that a DATABASE_URL names.

    Raises StoreOpenError for a URL that this version cannot open.
    """
    return SqliteTools(_sqlite_path(database_url))


def _sqlite_path(database_url: str) -> Path:
    """The path in a DATABASE_URL. Raises StoreOpenError for one that this version cannot open."""
    path = database_url.removeprefix(SQLITE_SCHEME)
    if path in (database_url, ""):
        shown = re.sub(r"(://[^:@/]*):.*@", r"\1:…@", database_url)
        raise StoreOpenError(f"DATABASE_URL is {shown!r}: this version opens sqlite:///PATH only")
    if "?" in path or "#" in path:
        # Other programs take options there; here they would be a part of the file's name.
        raise StoreOpenError(
            f"DATABASE_URL is {database_url!r}: it takes no options, and a PATH in sqlite:///PATH no ? and "
            "no #"
        )
    if path == ":memory:":
        raise StoreOpenError(f"DATABASE_URL is {database_url!r}: the store is a file, sqlite:///PATH")
    return Path(path)
