"""REST is asked both ways: in its server's process, and of a facade that calls its server on the wire."""

from collections.abc import Iterator

import pytest

from tests.conftest import SHARED
from tests.support.service import Serve
from tests.support.two_processes import TwoProcesses


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoProcesses]:
    """One server and its facade for all tests of a pytest process, as `service` is."""
    running = TwoProcesses(tmp_path_factory.mktemp("two_processes"), **SHARED)
    yield running
    assert running.stop() == 0, running.log()


@pytest.fixture(params=["service", "two_processes"])
def rest_service(request: pytest.FixtureRequest) -> Serve:
    """Each of the two."""
    return request.getfixturevalue(request.param)
