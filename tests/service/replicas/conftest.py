from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.replicas.running import Replicas


@pytest.fixture(params=[True, False], ids=["announced", "not announced"])
def replicas(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Replicas]:
    """Two servers on one store, which tell each other what they do, or do not."""
    running = Replicas(tmp_path, 2, POSTGRES_ANNOUNCE=str(request.param).lower())
    yield running
    running.close()


@pytest.fixture
def announcing(tmp_path: Path) -> Iterator[Replicas]:
    """Two that do, for what is only announced, and not found later."""
    running = Replicas(tmp_path, 2)
    yield running
    running.close()
