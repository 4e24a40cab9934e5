from collections.abc import Iterator

import pytest

from server.store.postgres.place import Place
from server.store.postgres.schema import prepare
from tests.store.postgres.opened import Cluster, make_store
from tests.support.postgres import FAST, PostgresServer, shared_server
from tests.unit.samples import T0


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """One server for all tests of a pytest process, with an empty store to be copied."""
    server = shared_server().server
    return Cluster(server, make_template(server))


@pytest.fixture(scope="session")
def cluster_16() -> Iterator[Cluster]:
    """The same of PostgreSQL 16."""
    yield from _cluster(16)


@pytest.fixture(scope="session")
def cluster_15() -> Iterator[Cluster]:
    """The same of PostgreSQL 15, the oldest that is supported."""
    yield from _cluster(15)


def _cluster(version: int) -> Iterator[Cluster]:
    server = PostgresServer(version=version, **FAST)
    try:
        yield Cluster(server, make_template(server))
    finally:
        server.close()


def make_template(server: PostgresServer) -> str:
    template = server.make_database()
    prepare(Place(server.url(template)))
    # The samples are of a time that is over.
    server.execute(f"INSERT INTO test_clock VALUES (true, {T0}, 0)", template)
    return template


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    """The URL of an empty store of the test's own."""
    yield from make_store(cluster)
