"""The programs that tests/run_deploy installs, and what the tests of deploy/ start."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.service.docs.pages import ROOT
from tests.support.waiting import PATIENCE_SECONDS

DEPLOY: Final = ROOT / "deploy"
PROGRAMS: Final = os.pathsep.join(
    (str(Path(sys.executable).parent), *os.environ["PATH"].split(os.pathsep), "/usr/sbin", "/sbin")
)


def program(name: str) -> str:
    """The path of a program; the test fails where it is missing."""
    path = shutil.which(name, path=PROGRAMS)
    if path is None:
        pytest.fail(f"this test wants {name}: tests/run_deploy brings it")
    return path


def run(name: str, *arguments: str | Path, seconds: float = 60, **options: object) -> str:
    """Runs a program until it ends well; returns what it printed. Raises AssertionError where it fails."""
    done = subprocess.run(
        [program(name), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        **options,
    )
    assert done.returncode == 0, f"{name} {arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def running(line: Sequence[str | Path], directory: Path, log: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is in the background as long as the block lasts; both its outputs go to a file."""
    with (directory / log).open("wb") as out:
        process = subprocess.Popen(
            [str(word) for word in line], cwd=directory, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=PATIENCE_SECONDS)
        finally:
            process.kill()
            process.wait()
