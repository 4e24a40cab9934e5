"""Services whose patience with workers is short."""

from collections.abc import Iterator

import pytest

from tests.service.agents.stream.reading import LEASE_SECONDS
from tests.support.service import Serve


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Retries at once, has patience with workers and none with clients."""
    settings = {
        "DELIVERY_BACKOFF_SECONDS": "0.01",
        "DELIVERY_MAX_BACKOFF_SECONDS": "0.02",
        "DELIVERY_ATTEMPTS": "3",
    }
    running = Serve(
        tmp_path_factory.mktemp("stream"),
        REPLY_DEADLINE_SECONDS="0.5",
        STREAM_HEARTBEAT_SECONDS="0.2",
        **settings,
    )
    yield running
    assert running.stop() == 0
    assert "Traceback" not in running.log()


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Has little patience with workers."""
    settings = {
        "DELIVERY_BACKOFF_SECONDS": "0.01",
        "DELIVERY_MAX_BACKOFF_SECONDS": "0.02",
        "DELIVERY_ATTEMPTS": "100",
    }
    running = Serve(
        tmp_path_factory.mktemp("hasty"), "--no-rest", DELIVERY_LEASE_SECONDS=str(LEASE_SECONDS), **settings
    )
    yield running
    assert running.stop() == 0
    assert "Traceback" not in running.log()
