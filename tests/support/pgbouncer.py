"""pgbouncer in front of a PostgreSQL server: a child process, as Debian has it.

In transaction mode, where each transaction may be in another session of the server. As root it runs in a user
namespace, as PostgreSQL does.
"""

import atexit
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import psycopg

from tests.support.postgres import USER, PostgresServer, as_unprivileged, free_port, shared_server
from tests.support.waiting import until

COMMAND: Final = "/usr/sbin/pgbouncer"
START_SECONDS: Final = 30.0
_running: list["Pgbouncer"] = []


class Pgbouncer:
    """A running pgbouncer. `url()` leads to a database of its server."""

    def __init__(self, server: PostgresServer) -> None:
        """Starts it and waits until it answers."""
        self._server = server
        self.port = free_port()
        self._directory = Path(tempfile.mkdtemp(prefix="eliza-pgbouncer-"))
        settings = self._directory / "pgbouncer.ini"
        # Idle connections end soon: each test has a database of its own, and the server a bound for all.
        settings.write_text(
            f"""
            [databases]
            * = host=127.0.0.1 port={server.port} user={USER}
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {self.port}
            unix_socket_dir =
            auth_type = any
            pool_mode = transaction
            max_client_conn = 1000
            server_idle_timeout = 5
            """
        )
        self.log_path = self._directory / "pgbouncer.log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(as_unprivileged([COMMAND, settings]), stdout=log, stderr=log)
        until(self._answers, "pgbouncer starts", START_SECONDS)

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"pgbouncer has ended:\n{self.log_path.read_text()[-2000:]}")
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2, prepare_threshold=None).close()
        except psycopg.Error:
            return False
        return True

    def url(self, database: str) -> str:
        """The URL of a database through it."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def settings(self, database: str) -> dict[str, str]:
        """The settings of a service whose store is this database, reached through it."""
        return {
            "DATABASE_URL": self.url(database),
            "DATABASE_LISTEN_URL": self._server.url(database),
            "POSTGRES_PREPARE": "false",
        }

    def close(self) -> None:
        """Ends it at once."""
        self.process.kill()
        self.process.wait(timeout=30)
        shutil.rmtree(self._directory, ignore_errors=True)


def shared_pgbouncer() -> Pgbouncer:
    """One in front of the server of all functional tests of a pytest process; it ends with the process."""
    shared = shared_server()
    if not _running:
        _running.append(Pgbouncer(shared.server))
        atexit.register(_running[0].close)
    return _running[0]


def pooled_store(directory: Path) -> dict[str, str]:
    """The settings of the store of a service in a directory, reached through pgbouncer."""
    return shared_pgbouncer().settings(shared_server().database_of(directory))
