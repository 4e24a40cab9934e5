"""The store keeps its contract on the older versions of PostgreSQL that are supported."""

from collections.abc import Iterator

import pytest

from tests.store.postgres.opened import Cluster
from tests.store.postgres.test_postgres import OnPostgres


class OnOlder(OnPostgres):
    @pytest.fixture
    def database(self, older_cluster: Cluster) -> Iterator[str]:
        """The URL of an empty store of the test's own."""
        name = older_cluster.server.make_database(older_cluster.template)
        yield older_cluster.server.url(name)
        older_cluster.server.remove_database(name)


@pytest.mark.parametrize("older_cluster", [16], indirect=True)
class TestPostgres16Store(OnOlder):
    pass


@pytest.mark.parametrize("older_cluster", [15], indirect=True)
class TestPostgres15Store(OnOlder):
    pass
