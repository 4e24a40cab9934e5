"""The store keeps its contract on the older versions of PostgreSQL that are supported."""

from collections.abc import Iterator

import pytest

from tests.store.postgres.opened import Cluster, make_store
from tests.store.postgres.test_postgres import OnPostgres

pytestmark = pytest.mark.postgres


class TestPostgres16Store(OnPostgres):
    @pytest.fixture
    def database(self, cluster_16: Cluster) -> Iterator[str]:
        """The URL of an empty store of the test's own."""
        yield from make_store(cluster_16)


class TestPostgres15Store(OnPostgres):
    @pytest.fixture
    def database(self, cluster_15: Cluster) -> Iterator[str]:
        """The URL of an empty store of the test's own."""
        yield from make_store(cluster_15)
