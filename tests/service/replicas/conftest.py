from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.replicas.running import Replicas
from tests.support.pgbouncer import pooled_store


@pytest.fixture(params=["announced", "not announced", "through pgbouncer"])
def replicas(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Replicas]:
    """Two servers on one store, which tell each other what they do, or do not, or have a pooler before it."""
    match request.param:
        case "announced":
            settings = {}
        case "not announced":
            settings = {"POSTGRES_ANNOUNCE": "false"}
        case _:
            settings = pooled_store(tmp_path)
    running = Replicas(tmp_path, 2, **settings)
    yield running
    running.close()


@pytest.fixture
def announcing(tmp_path: Path) -> Iterator[Replicas]:
    """Two that do, for what is only announced, and not found later."""
    running = Replicas(tmp_path, 2)
    yield running
    running.close()
