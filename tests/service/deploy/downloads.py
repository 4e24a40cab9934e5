"""Programs that bring something from the network. None hangs, and each failure says what it is."""

import os
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.service.deploy.kinds import DEADLINE, cannot_run
from tests.service.deploy.programs import complete, run

RESERVE_SECONDS: Final = 240
"""The part of tests/run_deploy's time that downloads leave to the tests."""

_MISMATCH: Final = re.compile(r"DO NOT MATCH THE HASHES|Hash Sum mismatch|corrupt", re.IGNORECASE)
_NETWORK: Final = re.compile(
    r"Temporary failure|Could ?n.t (?:connect|resolve|download)|Could not (?:connect|resolve|fetch)"
    r"|Connection (?:refused|reset|timed out|failed)|ConnectTimeout|ReadTimeout|Read timed out"
    r"|NewConnectionError|ProxyError|Failed (?:to fetch|getting release file)|Name or service not known"
    r"|Network is unreachable|No route to host|\b50[234]\b (?:Bad Gateway|Service|Gateway)|Retrying \(Retry",
    re.IGNORECASE,
)


class DownloadError(Exception):
    """A download did not come, for the reason that it has as its text."""


class WrongDownloadError(Exception):
    """A download is not what was asked for: its checksum is another one."""


def seconds_left(most: float) -> float:
    """How many seconds a download may take: at most these, and less where the whole run's time ends."""
    if DEADLINE not in os.environ:
        return most
    return max(1.0, min(most, float(os.environ[DEADLINE]) - time.time() - RESERVE_SECONDS))


def find_network_failure(said: str) -> str | None:
    """The line in which a program says that the network failed it; None where it failed otherwise."""
    return next((line.strip() for line in said.splitlines() if _NETWORK.search(line)), None)


def download(*line: str, seconds: float, environment: Mapping[str, str] | None = None) -> None:
    """Runs a program that downloads.

    Raises DownloadError where it fails or takes longer, WrongDownloadError where a checksum differs.
    """
    limit = seconds_left(seconds)
    try:
        done = complete(line, limit, env={**os.environ, **(environment or {})})
    except subprocess.TimeoutExpired as late:
        raise DownloadError(f"{line[0]} took longer than {limit:.0f} s") from late
    said = done.stdout + done.stderr
    if done.returncode == 0:
        return
    if _MISMATCH.search(said):
        raise WrongDownloadError(said)
    last = next((text for text in reversed(said.strip().splitlines()) if text.strip()), "")
    raise DownloadError(f"{line[0]}: {find_network_failure(said) or last.strip() or done.returncode}")


def run_online(kind: str, name: str, *arguments: str | Path, seconds: float) -> str:
    """Runs a program that downloads among other things; returns what it printed.

    Skips the tests of that kind where the network fails it or it takes too long. Else as `run`.
    """
    limit = seconds_left(seconds)
    try:
        return run(name, *arguments, seconds=limit)
    except subprocess.TimeoutExpired:
        cannot_run(kind, f"{name} took longer than {limit:.0f} s")
    except AssertionError as failure:
        said = str(failure)
        if not _MISMATCH.search(said) and (line := find_network_failure(said)):
            cannot_run(kind, f"{name}: {line}")
        raise
