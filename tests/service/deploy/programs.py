"""The programs that tests/run_deploy installs, and what the tests of deploy/ start."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

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


def complete(line: Sequence[str], seconds: float, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a program until it ends. Raises subprocess.TimeoutExpired where it takes longer.

    Its children end with it: a download that hangs keeps neither the pipes nor the test.
    """
    with subprocess.Popen(
        line,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        **options,
    ) as process:
        try:
            out, errors = process.communicate(timeout=seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(line, process.returncode, out, errors)


def run(name: str, *arguments: str | Path, seconds: float = 60, **options: Any) -> str:
    """Runs a program until it ends well; returns what it printed.

    Raises AssertionError where it fails, subprocess.TimeoutExpired where it takes longer.
    """
    done = complete([program(name), *map(str, arguments)], seconds, **options)
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
