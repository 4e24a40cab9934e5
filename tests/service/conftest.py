"""Fixtures of the live tests."""

from collections.abc import Iterator

import pytest

from tests.support.service import Serve


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """One service as it comes, without a test clock, for all tests of a pytest process."""
    running = Serve(tmp_path_factory.mktemp("plain"))
    yield running
    assert running.stop() == 0, running.log()
