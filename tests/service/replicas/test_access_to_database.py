"""The way to the database, as docs/postgresql.md has it: TLS with an authority of one's own, several hosts,
the password from the environment, a dump and its restore. By Debian's PostgreSQL: the wheels' has no TLS.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.docs.pages import example
from tests.support.clients import create, replies, run, send
from tests.support.postgres import PostgresServer, free_port
from tests.support.service import Serve

pytestmark = pytest.mark.postgres

PASSWORD = "any :/@ character"


class Database:
    """A PostgreSQL that takes TLS and a password alone. Its certificate is the docs', for `localhost`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        script = example("postgres-tls")
        assert script.count("db.example.com") == 2
        self._shell(script.replace("db.example.com", "localhost"))
        (directory / "server.key").chmod(0o600)
        self.server = PostgresServer(
            version=15,
            ssl="on",
            ssl_cert_file=str(directory / "server.crt"),
            ssl_key_file=str(directory / "server.key"),
        )
        self.server.execute(f"ALTER USER eliza PASSWORD '{PASSWORD}'")
        self.server.execute("CREATE DATABASE sessions ENCODING 'UTF8' TEMPLATE template0")
        (self.server.directory / "pg_hba.conf").write_text("hostssl all all all scram-sha-256\n")
        self.server.execute("SELECT pg_reload_conf()")

    def url(self, name: str = "sessions", *, first: str = "", **options: str) -> str:
        """The URL of a database, without the password; `first` is another host before the right one."""
        hosts = f"{first}localhost:{self.server.port}"
        asked = "&".join(f"{option}={text}" for option, text in options.items())
        return f"postgresql://eliza@{hosts}/{name}?{asked}"

    def run_tool(self, name: str, *arguments: str) -> None:
        """Runs a program of PostgreSQL."""
        line = [str(self.server.binaries / name), *arguments]
        environment = {**os.environ, "PGPASSWORD": PASSWORD}
        done = subprocess.run(
            line, cwd=self.directory, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def _shell(self, script: str) -> None:
        done = subprocess.run(
            ["sh", "-euc", script], cwd=self.directory, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """The database, for the tests of this module."""
    made = Database(tmp_path_factory.mktemp("tls"))
    yield made
    made.server.close()


def test_servers_use_tls_that_checks_the_name_and_the_authority(database: Database, tmp_path: Path) -> None:
    """Also where the URL names another host first, which does not answer."""
    authority = str(database.directory / "ca.crt")
    url = database.url(first=f"localhost:{free_port()},", sslmode="verify-full", sslrootcert=authority)
    server = Serve(tmp_path, "--no-rest", DATABASE_URL=url, PGPASSWORD=PASSWORD)
    try:
        session = create(server)
        send(server, session.session_id, "over TLS")
        assert [reply.content for reply in replies(server, session.session_id, 1)] == ["over TLS"]
        assert PASSWORD not in server.log()
    finally:
        assert server.stop() == 0

    database.run_tool("pg_dump", "--format=custom", "--file=sessions.dump", database.url(sslmode="require"))
    address = ("--host=localhost", f"--port={database.server.port}", "--username=eliza")
    database.run_tool("createdb", *address, "--encoding=UTF8", "--template=template0", "restored")
    database.run_tool("pg_restore", *address, "--dbname=restored", "sessions.dump")
    restored = database.url("restored", sslmode="verify-full", sslrootcert=authority)
    checked = run("check", cwd=tmp_path, DATABASE_URL=restored, PGPASSWORD=PASSWORD)
    assert "is sound: 1 sessions, 2 entries, 1 deliveries" in checked.out, checked.errors


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sslmode": "disable"}, "no encryption"),
        ({"sslmode": "verify-full", "sslrootcert": "missing.crt"}, "missing.crt"),
        ({"sslmode": "verify-full", "sslrootcert": "server.crt"}, "certificate verify failed"),
        (
            {"sslmode": "verify-full", "sslrootcert": "ca.crt", "host": "127.0.0.1"},
            "does not match host name",
        ),
    ],
    ids=["without TLS", "no authority", "another authority", "another name"],
)
def test_what_is_wrong_with_tls_is_said(
    database: Database, tmp_path: Path, options: dict[str, str], said: str
) -> None:
    if "sslrootcert" in options:
        options = options | {"sslrootcert": str(database.directory / options["sslrootcert"])}
    done = run("migrate", cwd=tmp_path, DATABASE_URL=database.url(**options), PGPASSWORD=PASSWORD)
    assert done.status == 1
    assert said in done.errors
    assert PASSWORD not in done.errors
