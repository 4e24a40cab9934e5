"""A service with a test clock, for the tests of this directory."""

from collections.abc import Iterator

import pytest

from tests.support.service import Serve


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """One service for a module's tests. Nothing is purged, and deliveries are tried again at once."""
    running = Serve(
        tmp_path_factory.mktemp("admin"),
        TEST_CLOCK="1",
        SESSION_RETENTION_MINUTES="525600",
        DELIVERY_ATTEMPTS="2",
        DELIVERY_BACKOFF_SECONDS="0.01",
        DELIVERY_MAX_BACKOFF_SECONDS="0.05",
    )
    yield running
    assert running.stop() == 0, running.log()
