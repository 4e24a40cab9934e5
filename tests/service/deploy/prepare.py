"""Brings the programs that the tests of deploy/ need, and finds out which kinds this machine cannot run.

`python -m tests.service.deploy.prepare FILE` writes these kinds and the reasons to a file, for conftest.py.
It ends with an error only where a download has a wrong checksum.
"""

import argparse
import functools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from tests.service.deploy.downloads import DownloadError, WrongDownloadError, download
from tests.service.deploy.kinds import KINDS, Kind
from tests.service.deploy.programs import PROGRAMS, complete

REQUIREMENTS: Final = Path(__file__).with_name("requirements.txt")
PACKAGES: Final = {
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "nginx": "nginx",
    "nsenter": "util-linux",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "setpriv": "util-linux",
    "systemd-analyze": "systemd",
    "systemd-nspawn": "systemd-container",
    "systemd-sysusers": "systemd",
    "unshare": "util-linux",
}
"""The packages of Debian that have the programs. All others come as wheels, by requirements.txt."""

UPDATE_SECONDS: Final = 90
INSTALL_SECONDS: Final = 180
WHEELS_SECONDS: Final = 180
"""How long each download may take."""

_APT: Final = (
    "-qq",
    "-o",
    "Acquire::Retries=2",
    "-o",
    "Acquire::http::Timeout=20",
    "-o",
    "DPkg::Lock::Timeout=30",
)

_CHANGE_ROOTS: Final = """
set -e
mount -t tmpfs tmp "$PLACE"
mkdir "$PLACE/proc" "$PLACE/root"
mount -t proc proc "$PLACE/proc"
mount --bind / "$PLACE/root"
mount -o remount,bind,ro "$PLACE/root"
exec chroot "$PLACE/root" true
"""
"""What the tests do to contain an image, in short."""


def missing(programs: Iterable[str]) -> list[str]:
    """Those of the programs that are not there."""
    return [name for name in programs if shutil.which(name, path=PROGRAMS) is None]


def install_packages(packages: Iterable[str]) -> None:
    """Installs packages of Debian. Raises DownloadError where that is not possible."""
    wanted = sorted(packages)
    if os.geteuid() != 0:
        raise DownloadError("no root to install it")
    if shutil.which("apt-get") is None:
        raise DownloadError("no apt-get to install it")
    print(f"tests/run_deploy: installs {' '.join(wanted)}", flush=True)
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    download("apt-get", "update", *_APT, seconds=UPDATE_SECONDS, environment=quiet)
    line = ("apt-get", "install", "-y", "--no-install-recommends", *_APT, *wanted)
    download(*line, seconds=INSTALL_SECONDS, environment=quiet)


def install_wheels(requirements: Path = REQUIREMENTS) -> None:
    """Installs the wheels beside the interpreter, each held to its SHA-256. Raises DownloadError."""
    print("tests/run_deploy: installs its wheels", flush=True)
    line = (
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
    )
    # The versions are this file's, also where another list constrains the suite's.
    environment = {"PIP_CONSTRAINT": "", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    bounds = ("--retries", "2", "--timeout", "20")
    download(*line, *bounds, "-r", str(requirements), seconds=WHEELS_SECONDS, environment=environment)


def install(programs: Iterable[str]) -> dict[str, str]:
    """Installs what is missing of the programs; returns why those that it could not install are missing."""
    wanted = list(programs)
    of_debian = missing(name for name in wanted if name in PACKAGES)
    of_wheels = [name for name in wanted if name not in PACKAGES]
    without: dict[str, str] = {}
    if of_debian:
        try:
            install_packages({PACKAGES[name] for name in of_debian})
        except DownloadError as failure:
            without.update(dict.fromkeys(of_debian, str(failure)))
    # The copy says for which state of the file the wheels were installed.
    stamp = Path(sys.prefix) / "deploy-requirements.txt"
    if not stamp.exists() or stamp.read_bytes() != REQUIREMENTS.read_bytes():
        try:
            install_wheels()
            shutil.copy(REQUIREMENTS, stamp)
        except DownloadError as failure:
            without.update(dict.fromkeys(of_wheels, str(failure)))
    for name in missing(one for one in wanted if one not in without):
        without[name] = "its package does not bring it"
    return {name: f"no {name}: {reason}" for name, reason in without.items()}


@functools.cache
def why_no_roots() -> str | None:
    """Why this machine lets nobody make a container without a daemon; None where it does."""
    if os.geteuid() != 0:
        return "no root"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        line = (
            "unshare",
            "--mount",
            "--pid",
            "--ipc",
            "--uts",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            _CHANGE_ROOTS,
        )
        done = complete(line, 30, env={**os.environ, "PLACE": place})
        if done.returncode != 0:
            return f"unshare, mount or chroot is refused: {done.stderr}"
        storage = ("buildah", "--root", f"{place}/storage", "--runroot", f"{place}/run")
        made = complete((*storage, "from", "--name", "try", "scratch"), 60)
        mounted = complete((*storage, "mount", "try"), 60) if made.returncode == 0 else made
        if mounted.returncode != 0:
            return f"buildah cannot keep an image here: {mounted.stderr}"
        complete((*storage, "umount", "--all"), 60)
        complete((*storage, "rm", "--all"), 60)
        complete(("umount", f"{place}/storage/overlay"), 60)
    return None


def find_reasons(
    kinds: Mapping[str, Kind], without: Mapping[str, str], no_roots: Callable[[], str | None]
) -> dict[str, str]:
    """The kinds that cannot run, each with its reason. `without`: the programs that are missing, and why."""
    reasons: dict[str, str] = {}
    for name, kind in kinds.items():
        found = next((without[one] for one in kind.programs if one in without), None)
        if found is None and kind.changes_roots:
            found = no_roots()
        if found is not None:
            reasons[name] = " ".join(found.split())
    return reasons


def main() -> None:
    """Prepares this machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    file: Path = parser.parse_args().file
    try:
        without = install(dict.fromkeys(one for kind in KINDS.values() for one in kind.programs))
    except WrongDownloadError as failure:
        sys.exit(f"tests/run_deploy: a download has a wrong checksum\n{failure}")
    file.write_text(json.dumps(find_reasons(KINDS, without, why_no_roots)))


if __name__ == "__main__":
    main()
