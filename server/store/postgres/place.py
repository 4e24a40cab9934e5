"""Where a PostgreSQL store is, and how it is connected to."""

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.string import TextLoader

from server.store.values import StoreOpenError

Link: TypeAlias = AsyncConnection[tuple[Any, ...]]
"""A connection whose rows are tuples."""

OLDEST_SERVER: Final = 15_00_00
"""The oldest PostgreSQL that is supported, as `server_version_num` says it."""
CONNECT_SECONDS: Final = 2
"""How long one host of the URL has to answer."""
STATEMENT_MS: Final = 10_000
LOCK_MS: Final = 5_000
IDLE_MS: Final = 10_000
"""How long a statement takes, waits for a lock, and a transaction may be idle: a frozen server lets go of its
rows.
"""
ANSWER_SECONDS: Final = 12.0
"""How long a lane waits for what it has sent. No timeout of the server ends a COMMIT that waits for a
standby.
"""
WAIT_SECONDS: Final = 10.0
"""How long a write or a read waits for a database that is away, where nobody says."""

LIMITS: Final = (
    f"-c statement_timeout={STATEMENT_MS} -c lock_timeout={LOCK_MS} "
    f"-c idle_in_transaction_session_timeout={IDLE_MS}"
)
LOCAL_LIMITS: Final = (
    f"SELECT set_config('statement_timeout', '{STATEMENT_MS}', true), "
    f"set_config('lock_timeout', '{LOCK_MS}', true), "
    f"set_config('idle_in_transaction_session_timeout', '{IDLE_MS}', true)"
)
"""The same for one transaction: behind a pooler the session is another one each time."""


@dataclass(frozen=True, slots=True)
class Place:
    """A PostgreSQL store and the ways to it.

    `listen_url`: leads to the server itself where `url` leads to a pooler. `prepares`: whether statements may
    be prepared; not behind a pooler that knows nothing of them. `lanes`: how many groups may be written at a
    time. `announces`: whether servers tell each other of what they have written. `wait_s`: how long a call
    waits for a database that is away.
    """

    url: str
    listen_url: str = ""
    prepares: bool = True
    lanes: int = 1
    announces: bool = True
    wait_s: float = WAIT_SECONDS
    answer_s: float = ANSWER_SECONDS

    def __str__(self) -> str:
        """Names it for people, without a password."""
        found = conninfo_to_dict(self.url)
        hosts = str(found.get("host") or "localhost").split(",")
        ports = str(found.get("port") or "").split(",")
        named = (ports[min(number, len(ports) - 1)] for number in range(len(hosts)))
        pairs = [f"{host}:{port}" if port else host for host, port in zip(hosts, named, strict=True)]
        return f"postgresql://{','.join(pairs)}/{found.get('dbname') or found.get('user') or ''}"

    async def connect(self, purpose: str, *, listens: bool = False) -> Link:
        """Connects to the server that may be written to, in autocommit mode. Raises psycopg.Error.

        `purpose` is for whoever looks at the database's connections.
        """
        conninfo = self._conninfo(purpose, listens=listens)
        link: Link = await AsyncConnection.connect(
            conninfo, autocommit=True, prepare_threshold=0 if self.prepares else None
        )
        # The service has ids as text.
        link.adapters.register_loader("uuid", TextLoader)
        link.prepared_max = None
        return link

    def connect_now(self, purpose: str) -> "psycopg.Connection[tuple[Any, ...]]":
        """Connects as `connect` does, outside an event loop. Raises psycopg.Error."""
        link = psycopg.Connection.connect(
            self._conninfo(purpose), autocommit=True, prepare_threshold=5 if self.prepares else None
        )
        link.adapters.register_loader("uuid", TextLoader)
        return link

    def _conninfo(self, purpose: str, *, listens: bool = False) -> str:
        url = (self.listen_url or self.url) if listens else self.url
        asked = conninfo_to_dict(url)
        settings: dict[str, Any] = {
            "target_session_attrs": "read-write",
            "connect_timeout": CONNECT_SECONDS,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": round(self.answer_s * 1000),
            "client_encoding": "UTF8",
        } | {name: value for name, value in asked.items() if value is not None}
        settings["application_name"] = f"{settings.get('application_name', 'eliza-sessions')} {purpose}"
        if self.prepares or listens:
            settings["options"] = f"{LIMITS} {settings.get('options', '')}".strip()
        return make_conninfo("", **settings)


def check_url(url: str) -> None:
    """Raises StoreOpenError for a URL that libpq cannot read. The text does not repeat a password."""
    try:
        conninfo_to_dict(url)
    except psycopg.Error as error:
        raise StoreOpenError(f"DATABASE_URL cannot be read: {str(error).splitlines()[0]}") from None
