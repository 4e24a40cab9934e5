"""Fixtures of the tests of TLS."""

from pathlib import Path

import pytest

from tests.service.tls.certificates import Authority, Installed


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def installed(authority: Authority, tmp_path: Path) -> Installed:
    """A certificate for localhost and 127.0.0.1."""
    return Installed(tmp_path, authority.sign())
