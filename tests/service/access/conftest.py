"""Protected services for all tests of a pytest process that need no other."""

from collections.abc import Iterator
from functools import partial

import pytest

from tests.service.access.attacked import Attacked, make_attacked
from tests.service.access.world import World, make_world
from tests.support.service import Serve


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A protected service with a test clock and a caller of each kind."""
    directory = tmp_path_factory.mktemp("protected")
    made = make_world(partial(Serve, directory), directory, TEST_CLOCK="1")
    yield made
    assert made.service.stop() == 0, made.service.log()


@pytest.fixture(scope="session")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    """The same with the tokens of an identity provider, and a clock that nobody moves."""
    directory = tmp_path_factory.mktemp("attacked")
    made = make_attacked(partial(Serve, directory), directory)
    yield made
    assert made.world.service.stop() == 0, made.world.service.log()
    assert "internal error" not in made.world.service.log()
    assert "unforeseen error" not in made.world.service.log()
