"""The packed client, once for all tests of a pytest process, and projects of its users."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.typescript_client import project as client
from tests.service.typescript_client.files import Files


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, packed."""
    return client.pack(tmp_path_factory.mktemp("packed"))


@pytest.fixture
def project(archive: Path, tmp_path: Path) -> Path:
    """A user's directory, where the package is installed."""
    directory = tmp_path / "project"
    directory.mkdir()
    return client.install(archive, directory)


@pytest.fixture
def files(project: Path) -> Iterator[Files]:
    """Serves the user's directory to browsers."""
    with Files(project) as running:
        yield running
