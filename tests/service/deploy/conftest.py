"""The image, which several tests run."""

import shutil
from collections.abc import Iterator

import pytest

from tests.service.deploy.image import Image


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The image, built on a base that debootstrap made."""
    directory = tmp_path_factory.mktemp("image")
    built = Image(directory)
    try:
        built.make_base()
        built.build()
        yield built
    finally:
        built.buildah("rm", "--all")
        built.buildah("rmi", "--all", "--force")
        built.unmount()
        shutil.rmtree(directory)
