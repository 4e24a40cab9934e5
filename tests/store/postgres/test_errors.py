"""What callers and operators are told where the database cannot be used: a typed error, or a plain text."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from structlog.testing import capture_logs

from server.domain.access import EVERYTHING
from server.domain.errors import ResourceExhaustedError, UnavailableError
from server.store.postgres.errors import is_away, is_passing, public_error
from server.store.postgres.place import Place, check_url
from server.store.postgres.schema import prepare
from server.store.postgres.store import PostgresStore
from server.store.values import StoreOpenError
from tests.store.conformance.common import say
from tests.store.postgres.opened import Cluster, open_store
from tests.support.inside_postgres import read_lanes
from tests.support.postgres import PostgresServer, free_port
from tests.unit.samples import T0, put, session

pytestmark = pytest.mark.postgres

STRANGER = "stranger"


@pytest.fixture
def role(cluster: Cluster) -> Iterator[str]:
    """A user of the database that may do nothing, until it is told what."""
    server = cluster.server
    server.execute(f"CREATE ROLE {STRANGER} LOGIN PASSWORD 'right'")
    yield STRANGER
    server.execute(f"REASSIGN OWNED BY {STRANGER} TO eliza")
    server.execute(f"DROP ROLE {STRANGER}")


def as_role(url: str) -> str:
    return url.replace("//eliza@", f"//{STRANGER}@")


def name_of(url: str) -> str:
    return url.rsplit("/", 1)[1]


@contextmanager
def system(server: PostgresServer, setting: str, value: str) -> Iterator[None]:
    """A setting of the server, for all connections that there are."""
    server.execute(f"ALTER SYSTEM SET {setting} = '{value}'")
    server.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        server.execute(f"ALTER SYSTEM RESET {setting}")
        server.execute("SELECT pg_reload_conf()")


def refusal(url: str) -> str:
    """What an operator is told who starts a server with this URL."""
    with pytest.raises(StoreOpenError) as caught:
        prepare(Place(url))
    text = str(caught.value)
    assert "\n" not in text
    assert "Traceback" not in text
    return text


class TestAtTheStart:
    def test_nobody_listens(self) -> None:
        assert "onnection refused" in refusal(f"postgresql://eliza@127.0.0.1:{free_port()}/store")

    def test_there_is_no_such_database(self, cluster: Cluster) -> None:
        assert 'database "nowhere" does not exist' in refusal(cluster.server.url("nowhere"))

    def test_the_password_is_wrong(self, cluster: Cluster, role: str) -> None:
        server = cluster.server
        rules = server.directory / "pg_hba.conf"
        before = rules.read_text()
        rules.write_text(f"host all {role} 127.0.0.1/32 scram-sha-256\n{before}")
        server.execute("SELECT pg_reload_conf()")
        try:
            url = server.url("postgres").replace("//eliza@", f"//{role}:guessed@")
            text = refusal(url)
            assert "password authentication failed" in text
            assert "guessed" not in text
        finally:
            rules.write_text(before)
            server.execute("SELECT pg_reload_conf()")

    def test_the_user_may_not_make_tables(self, cluster: Cluster, role: str) -> None:
        server = cluster.server
        name = server.make_database()
        try:
            assert "permission denied for schema public" in refusal(as_role(server.url(name)))
        finally:
            server.remove_database(name)

    def test_the_user_may_not_read_them(self, database: str, role: str) -> None:
        assert "permission denied for table schema_version" in refusal(as_role(database))

    def test_there_are_too_many_connections(self, cluster: Cluster, database: str, role: str) -> None:
        cluster.server.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
        assert "too many connections" in refusal(as_role(database))

    def test_the_server_takes_no_writes(self, cluster: Cluster, database: str) -> None:
        cluster.server.execute(f"ALTER DATABASE {name_of(database)} SET default_transaction_read_only = on")
        assert "read-only" in refusal(database)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://u:se%cret@h/x", "invalid percent-encoded token"),
        ("postgresql://h/x?password=se%cret", "invalid percent-encoded token"),
        ("postgresql://u:sec ret@h/x", "unexpected spaces"),
        ("postgresql://u:secret@[::1/x", "IPv6"),
        ('postgresql://u:"%secret@h/x', "invalid percent-encoded token"),
        ("postgresql://u:se/cret@h/x", "%2F"),
        ("postgresql://u:12/cret@h/x", "%2F"),
        ("postgresql://u:se@cret@h/x", "%40"),
        ("postgresql://u:secret@h/x?nonsense=1", '"nonsense"'),
        ("postgresql://u:secret@h/x?password", '"password"'),
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_its_password(url: str, says: str) -> None:
    with pytest.raises(StoreOpenError) as caught:
        check_url(url)
    assert says in str(caught.value)
    assert not re.search(r"cret|sec\b", str(caught.value))


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:p%40%2F@one:1,two:2/x?application_name=a@b", "postgresql://u@h", "", "host=h user=u"],
)
def test_a_url_that_can_be_read_is_not(url: str) -> None:
    check_url(url)


class TestInCalls:
    @pytest.fixture
    async def owned(self, cluster: Cluster, role: str) -> AsyncIterator[PostgresStore]:
        """A store whose tables belong to the role, on connections that wait for nothing."""
        server = cluster.server
        name = server.make_database()
        server.execute(f"ALTER DATABASE {name} OWNER TO {role}")
        server.execute("GRANT ALL ON SCHEMA public TO PUBLIC", name)
        store = await open_store(as_role(server.url(name)), wait_s=0.2)
        server.execute(f"INSERT INTO test_clock VALUES (true, {T0}, 0)", name)
        self.server, self.name = server, name
        yield store
        await store.close()
        server.remove_database(name)

    async def test_a_privilege_was_taken_away(self, owned: PostgresStore) -> None:
        one = session()
        await put(owned, one)
        self.server.execute(f"REVOKE ALL ON log FROM {STRANGER}", self.name)
        with pytest.raises(UnavailableError, match="The store cannot be used now"):
            await owned.apply(one.id, say(), scope=EVERYTHING)
        with pytest.raises(UnavailableError, match="The store cannot be used now"):
            await owned.list_entries(one.id, scope=EVERYTHING, after_sequence=0, limit=9)
        self.server.execute(f"GRANT ALL ON log TO {STRANGER}", self.name)
        assert (await owned.apply(one.id, say(), scope=EVERYTHING)).entry.sequence == 1

    async def test_there_are_too_many_connections(self, owned: PostgresStore) -> None:
        one = session()
        await put(owned, one)
        self.server.execute(f"ALTER ROLE {STRANGER} CONNECTION LIMIT 0")
        self.server.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{STRANGER}'"
        )
        for call in (
            owned.apply(one.id, say(), scope=EVERYTHING),
            owned.get_session(one.id, scope=EVERYTHING),
        ):
            with pytest.raises(UnavailableError, match="The store cannot be used now"):
                await call
        self.server.execute(f"ALTER ROLE {STRANGER} CONNECTION LIMIT -1")
        assert (await owned.apply(one.id, say(), scope=EVERYTHING)).entry.sequence == 1
        assert (await owned.get_session(one.id, scope=EVERYTHING)).last_sequence == 1

    async def test_a_server_that_takes_no_writes_is_waited_for(self, cluster: Cluster, database: str) -> None:
        """As during a failover: the URL may lead to a standby for a moment."""
        store = await open_store(database)
        try:
            one = session()
            await put(store, one)
            for lane in read_lanes(store):
                await lane.read("SELECT 1")
            with capture_logs() as logs, system(cluster.server, "default_transaction_read_only", "on"):
                await until_read_only(database)
                task = asyncio.create_task(store.apply(one.id, say(), scope=EVERYTHING))
                # Reads go on meanwhile, on the connections that there are.
                assert (await store.get_session(one.id, scope=EVERYTHING)).last_sequence == 0
                await asyncio.wait([task], timeout=0.2)
                assert not task.done()
            assert (await task).entry.sequence == 1
            assert [line for line in logs if line["log_level"] == "error"] == []
        finally:
            await store.close()

    async def test_what_takes_too_long_fails_alone(self, database: str) -> None:
        store = await open_store(f"{database}?options=-c%20lock_timeout%3D300")
        one = session()
        await put(store, one)
        async with await psycopg.AsyncConnection.connect(database) as outsider:
            await outsider.execute("LOCK TABLE log")
            slow = store.list_entries(one.id, scope=EVERYTHING, after_sequence=0, limit=9)
            found = await asyncio.gather(
                *(store.get_session(one.id, scope=EVERYTHING) for _ in range(9)), slow, return_exceptions=True
            )
            await outsider.rollback()
        assert [type(one) for one in found[:-1]] == [type(one)] * 9
        assert isinstance(found[-1], UnavailableError)
        await store.close()

    async def test_a_lane_without_prepared_statements_goes_on_after_an_error(self, database: str) -> None:
        """Its reads are in transactions of their own, and an error leaves one open."""
        store = await open_store(f"{database}?options=-c%20lock_timeout%3D300", prepares=False)
        try:
            lane = read_lanes(store)[0]
            with pytest.raises(psycopg.Error, match="division by zero"):
                await lane.read("SELECT 1 / 0")
            assert await lane.read("SELECT 1") == [(1,)]
        finally:
            await store.close()

    async def test_a_queue_waits_for_the_database_once_and_not_group_by_group(
        self, cluster: Cluster, role: str
    ) -> None:
        """What queued behind a group that was given up has waited as long."""
        server, name = cluster.server, cluster.server.make_database()
        server.execute(f"ALTER DATABASE {name} OWNER TO {role}")
        store = await open_store(as_role(server.url(name)), wait_s=1.0)
        try:
            server.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
            server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'")
            loop = asyncio.get_running_loop()
            begun_s = loop.time()
            one = session()
            calls = [store.apply(one.id, say(), scope=EVERYTHING) for _ in range(256 * 12)]
            found = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(error) for error in found} == {UnavailableError}
            # Twelve groups, each of which would wait for itself.
            assert loop.time() - begun_s < 8
        finally:
            server.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")
            await store.close()
            server.remove_database(name)


async def until_read_only(url: str) -> None:
    """Waits until the server has read its settings anew."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as watcher:
        while True:
            found = await watcher.execute("SHOW default_transaction_read_only")
            if (await found.fetchall())[0][0] == "on":
                return
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("code", "typed"),
    [
        ("53100", ResourceExhaustedError),
        ("53200", ResourceExhaustedError),
        *(
            (code, UnavailableError)
            for code in ("25006", "25P03", "28P01", "3D000", "40P01", "42501", "42P01")
        ),
        *((code, UnavailableError) for code in ("53300", "55P03", "57014", "57P01", "58030", "XX001")),
    ],
)
def test_an_error_that_is_not_the_callers_is_typed(code: str, typed: type[Exception]) -> None:
    error = psycopg.errors.lookup(code)("relation log, at character 15")
    public = public_error(error)
    assert type(public) is typed
    assert "relation" not in str(public)


def test_a_defect_of_ours_stays_what_it_is() -> None:
    for code in ("22021", "23505", "42601"):
        error = psycopg.errors.lookup(code)("")
        assert public_error(error) is error
        assert not is_passing(error)


def test_only_a_database_that_is_away_is_waited_for() -> None:
    away = ["25006", "25P03", "53300", "57P01", "57P03", "08006"]
    assert all(is_away(psycopg.errors.lookup(code)("")) for code in away if code != "08006")
    assert is_away(psycopg.OperationalError("connection failed"))
    held_up = ["40001", "40P01", "55P03", "57014"]
    assert not any(is_away(psycopg.errors.lookup(code)("")) for code in held_up)
    assert all(is_passing(psycopg.errors.lookup(code)("")) for code in held_up)
    assert not is_away(ValueError())
