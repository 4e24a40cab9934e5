"""How the rest of the service comes to the PostgreSQL store."""

from server.clock import Clock
from server.store.contract import Store
from server.store.options import SharedOptions
from server.store.postgres.clock import DatabaseTestTime, DatabaseTime
from server.store.postgres.place import Place, check_url
from server.store.postgres.store import PostgresStore
from server.store.postgres.tools import PostgresTools
from server.store.tools import StoreTools
from server.store.values import StoreOpenError
from server.telemetry.telemetry import Telemetry
from server.telemetry.traces import Traces


def build_clock(*, is_test: bool) -> Clock:
    """The database's time, as far as this server knows it."""
    return DatabaseTestTime() if is_test else DatabaseTime()


async def open_store(
    database_url: str,
    clock: Clock,
    max_writes: int,
    telemetry: Telemetry,
    traces: Traces,
    options: SharedOptions,
) -> Store:
    """Opens the store. Raises StoreOpenError, saying why."""
    if not isinstance(clock, DatabaseTime):
        raise StoreOpenError("a store that several servers share goes by the database's time")
    check_url(database_url)
    check_url(options.listen_url, "DATABASE_LISTEN_URL")
    place = Place(database_url, *options)
    return await PostgresStore.open(place, clock, max_writes, telemetry, traces)


def tools(database_url: str, options: SharedOptions) -> StoreTools:
    """What the commands do with the store. Raises StoreOpenError."""
    check_url(database_url)
    return PostgresTools(Place(database_url, *options))
