"""Builds the image and runs it, without a daemon: buildah makes it, the kernel's namespaces contain it."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil

from tests.service.deploy.downloads import run_online
from tests.service.deploy.programs import program, run
from tests.service.docs.pages import ROOT
from tests.support.waiting import until

RELEASE: Final = "bookworm"
"""The release of Debian whose Python is 3.11, as that of the Dockerfile's base."""
MIRROR: Final = "http://deb.debian.org/debian"
PACKAGES: Final = "python3,python3-venv,ca-certificates"
BASE_SECONDS: Final = 360
BUILD_SECONDS: Final = 360
"""How long making the base may take, and building the image."""
CERTIFICATES: Final = Path("/etc/ssl/certs")
PIP_SETTINGS: Final = Path("/etc/pip.conf")

_CONTAINER: Final = """
set -e
mount --bind "$ROOTFS" "$ROOTFS"
mount -o remount,bind,ro "$ROOTFS"
mount -t proc proc "$ROOTFS/proc"
mount -t tmpfs -o mode=1777 tmp "$ROOTFS/tmp"
mount -t tmpfs -o mode=755 dev "$ROOTFS/dev"
for device in null zero random urandom; do
  touch "$ROOTFS/dev/$device"
  mount --bind "/dev/$device" "$ROOTFS/dev/$device"
done
mount --bind "$DATA" "$ROOTFS/data"
exec chroot "$ROOTFS" setpriv --reuid="${OWNER%:*}" --regid="${OWNER#*:}" --clear-groups --no-new-privs \
  --bounding-set=-all --inh-caps=-all env -i -C "$DIRECTORY" "$@"
"""
"""What a container engine does: a root that is read-only, /proc, /dev, /tmp, the volume; no right is left."""


class Image:
    """An image in a storage of its own, and its settings as a container engine reads them."""

    def __init__(self, directory: Path) -> None:
        self._storage = ("--root", str(directory / "storage"), "--runroot", str(directory / "run"))
        self._directory = directory
        self.base = ""

    def buildah(self, *arguments: str | Path) -> str:
        """Runs buildah on this storage."""
        return run("buildah", *self._storage, *arguments, seconds=120).strip()

    def buildah_online(self, kind: str, *arguments: str | Path) -> None:
        """Runs buildah with commands in a container that download."""
        run_online(kind, "buildah", *self._storage, *arguments, seconds=BUILD_SECONDS)

    def make_base(self) -> None:
        """Makes the base that the registry of images would have: Debian with Python, by debootstrap.

        DEPLOY_TEST_BASE names a directory for its files, where a later run finds them.
        """
        root = Path(os.environ.get("DEPLOY_TEST_BASE", self._directory / "base"))
        if not root.exists():
            include = f"--include={PACKAGES}"
            part = root.with_name(f"{root.name}.part")
            line = (program("debootstrap"), "--variant=minbase", include, RELEASE, part, MIRROR)
            # It mounts /proc there: with a namespace of its own that is gone also where it is killed.
            run_online("image", "unshare", "--mount", *line, seconds=BASE_SECONDS)
            for path in (part / "var/cache/apt/archives", part / "var/lib/apt/lists"):
                shutil.rmtree(path)
            part.rename(root)
        recipe = self._directory / "Base"
        recipe.write_text(f"FROM scratch\nCOPY {root.name} /\n")
        self.base = "localhost/eliza-sessions-base"
        self.buildah("bud", "--isolation", "chroot", "-t", self.base, "-f", recipe, root.parent)

    def build(self) -> None:
        """Builds deploy/Dockerfile on that base. The certificates and pip's settings are this machine's."""
        mounts = [f"{path}:{path}:ro" for path in (CERTIFICATES, PIP_SETTINGS) if path.exists()]
        volumes = [word for mount in mounts for word in ("-v", mount)]
        self.name = "localhost/eliza-sessions"
        self.buildah_online(
            "image",
            *("bud", "--isolation", "chroot", "--format", "docker", "--pull-never", *volumes),
            *("--build-arg", f"BASE={self.base}", "-t", self.name),
            *("-f", ROOT / "deploy" / "Dockerfile", ROOT),
        )
        inspected = json.loads(self.buildah("inspect", "--type", "image", self.name))
        self.settings: dict[str, Any] = inspected["Docker"]["config"]
        self.container = self.buildah("from", "--pull-never", self.name)
        self.root = Path(self.buildah("mount", self.container))

    def unmount(self) -> None:
        """Takes away the mount that buildah leaves at its storage, where there is one."""
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            place = line.split()[1]
            if place.startswith(f"{self._directory}/"):
                run("umount", place)

    def size(self, name: str) -> int:
        """How many bytes the files of an image take."""
        container = self.buildah("from", "--pull-never", name)
        try:
            root = Path(self.buildah("mount", container))
            return sum(path.lstat().st_size for path in root.rglob("*") if not path.is_symlink())
        finally:
            self.buildah("rm", container)

    def command(self, data: Path, *arguments: str, **settings: str) -> tuple[list[str], dict[str, str]]:
        """A command line that runs a command in the image, as its owner, and the environment for it."""
        variables = [*self.settings["Env"], *(f"{name}={value}" for name, value in settings.items())]
        line = [
            *(program("unshare"), "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"),
            *("sh", "-c", _CONTAINER, "container", *variables, *arguments),
        ]
        environment = {
            "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin",
            "ROOTFS": str(self.root),
            "DATA": str(data),
            "OWNER": self.settings["User"],
            "DIRECTORY": self.settings["WorkingDir"],
        }
        return line, environment

    def run(self, data: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in the image until it ends."""
        line, environment = self.command(data, *arguments, **settings)
        return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60, check=False)


class Container(NamedTuple):
    """A running image: the process that contains it, its first process, and what it said.

    `start_s`: the seconds from its start until it was ready.
    """

    outer: subprocess.Popen[bytes]
    pid: int
    addresses: dict[str, str]
    log: Path
    start_s: float

    def signal(self, name: str) -> int:
        """Sends a signal to the first process, as a container engine does; returns its exit status."""
        os.kill(self.pid, signal.Signals[name])
        return self.outer.wait(timeout=60)

    def status(self) -> dict[str, str]:
        """What the kernel says of the first process."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


@contextmanager
def container(image: Image, data: Path, log: Path, *arguments: str, **settings: str) -> Iterator[Container]:
    """Runs the image's entry point until it is ready, and as long as the block lasts."""
    line, environment = image.command(
        data, *image.settings["Entrypoint"], *(arguments or image.settings["Cmd"]), **settings
    )
    began = time.monotonic()
    with log.open("wb") as out, log.with_suffix(".ready").open("wb") as ready:
        outer = subprocess.Popen(line, env=environment, stdout=ready, stderr=out)

    def said() -> str:
        return log.with_suffix(".ready").read_text()

    try:
        until(lambda: outer.poll() is not None or "\n" in said(), "a container that is ready")
        start_s = time.monotonic() - began
        assert said().startswith("ready "), log.read_text()
        (pid,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        addresses = dict(part.split("=", 1) for part in said().split()[1:])
        yield Container(outer, int(pid), addresses, log, start_s)
    finally:
        # What --kill-child asked for is lost when the first process becomes another user.
        with suppress(psutil.NoSuchProcess):
            for first in psutil.Process(outer.pid).children():
                first.kill()
        outer.kill()
        outer.wait()
