"""Where a PostgreSQL store is, and how it is connected to."""

import re
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.string import TextLoader

from server.store.options import DEFAULT_OPTIONS
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

LIMITS: Final = (
    f"-c statement_timeout={STATEMENT_MS} -c lock_timeout={LOCK_MS} "
    f"-c idle_in_transaction_session_timeout={IDLE_MS}"
)
_OFF: Final = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit")
"""A group looks its rows up. The planner takes any set for a hundred rows, and would read all sessions for
them as long as there are fewer than about 18,000: 2 ms a group at 10,000 sessions, where an index takes 0.1.
Before PostgreSQL 18 what has no index then seems so dear that it would be compiled for.
"""
PLANS: Final = " ".join(f"-c {name}=off" for name in _OFF)
LOCAL_LIMITS: Final = (
    f"SELECT set_config('statement_timeout', '{STATEMENT_MS}', true), "
    f"set_config('lock_timeout', '{LOCK_MS}', true), "
    f"set_config('idle_in_transaction_session_timeout', '{IDLE_MS}', true), "
    + ", ".join(f"set_config('{name}', 'off', true)" for name in _OFF)
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
    listen_url: str = DEFAULT_OPTIONS.listen_url
    prepares: bool = DEFAULT_OPTIONS.prepares
    lanes: int = DEFAULT_OPTIONS.lanes
    announces: bool = DEFAULT_OPTIONS.announces
    wait_s: float = DEFAULT_OPTIONS.wait_s
    answer_s: float = ANSWER_SECONDS

    def __str__(self) -> str:
        return self.named()

    def named(self, *, listens: bool = False) -> str:
        """Names it for people, without a password; or where servers hear of each other."""
        found = conninfo_to_dict(self._url(listens=listens))
        hosts = str(found.get("host") or "localhost").split(",")
        ports = str(found.get("port") or "").split(",")
        named = (ports[min(number, len(ports) - 1)] for number in range(len(hosts)))
        pairs = [f"{host}:{port}" if port else host for host, port in zip(hosts, named, strict=True)]
        return f"postgresql://{','.join(pairs)}/{found.get('dbname') or found.get('user') or ''}"

    async def connect(self, purpose: str, *, listens: bool = False) -> Link:
        """Connects to the server that may be written to, in autocommit mode. Raises psycopg.Error.

        `purpose` is for whoever looks at the database's connections.
        """
        conninfo = self._conninfo(purpose, f"{LIMITS} {PLANS}", listens=listens)
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
            self._conninfo(purpose, LIMITS), autocommit=True, prepare_threshold=None
        )
        link.adapters.register_loader("uuid", TextLoader)
        return link

    def _conninfo(self, purpose: str, options: str, *, listens: bool = False) -> str:
        asked = conninfo_to_dict(self._url(listens=listens))
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
            settings["options"] = f"{options} {settings.get('options', '')}".strip()
        return make_conninfo("", **settings)

    def _url(self, *, listens: bool) -> str:
        return (self.listen_url or self.url) if listens else self.url


def check_url(url: str, setting: str = "DATABASE_URL") -> None:
    """Raises StoreOpenError for a URL that libpq cannot read. The text does not repeat a password."""
    authority, _, behind = url.partition("://")[2].partition("/")
    if authority.count("@") > 1 or "@" in behind.partition("?")[0]:
        # libpq would take a part of the password for a host or a database, which are shown.
        raise StoreOpenError(
            f"{setting} cannot be read: write @, / and the like in a password as %40, %2F and so on"
        )
    try:
        conninfo_to_dict(url)
    except psycopg.Error as error:
        why = _without_values(str(error).splitlines()[0], url)
        raise StoreOpenError(f"{setting} cannot be read: {why}") from None


def _without_values(text: str, url: str) -> str:
    """A text of libpq without what it quotes, but for the names of options: it may be a password."""
    if '"' in url:
        return text.partition('"')[0].rstrip(": ")
    shown = {"=", "]", *re.findall(r"[?&]([^=&]*)", url)}
    return re.sub(r'"([^"]*)"', lambda quoted: quoted[0] if quoted[1] in shown else '"…"', text)
