"""Two PostgreSQL servers: a primary, and a standby that each of its commits waits for."""

import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from tests.support.postgres import USER, PostgresServer, as_unprivileged, binaries
from tests.support.waiting import until

SETTINGS: Final = {
    # At its default, 5 s, a promotion waits that long.
    "wal_retrieve_retry_interval": "200ms",
    # What a node that is made anew copies has to be there still.
    "wal_keep_size": "256MB",
}
BACK_SECONDS: Final = 60.0
"""After which a node that does not come back is given up."""


class Node(PostgresServer):
    """One of the two, by name: the other one's commits wait for that name."""

    def __init__(self, name: str, directory: Path, **settings: str) -> None:
        self.name = name
        super().__init__(directory=directory, **SETTINGS, **settings)

    def require(self, settings: dict[str, str]) -> None:
        """Has the node use settings from its next start on."""
        self._settings.update(settings)

    def copy_of(self, primary: PostgresServer) -> None:
        """Makes this node anew as a standby of another, and starts it."""
        shutil.rmtree(self.directory, ignore_errors=True)
        make_copy(primary, self.directory, self.name)
        self.start()

    def kill(self) -> None:
        """Ends the server and its processes at once, as a power cut does."""
        postmaster = psutil.Process(self.postmaster())
        family = [postmaster, *postmaster.children(recursive=True)]
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait(timeout=60)
        psutil.wait_procs(family[1:], timeout=60)

    def receiver(self) -> psutil.Process:
        """The process of a standby that receives from the primary."""

        def find() -> psutil.Process | None:
            for one in psutil.Process(self.postmaster()).children():
                with suppress(psutil.NoSuchProcess):
                    if "walreceiver" in " ".join(one.cmdline()):
                        return one
            return None

        found = until(find, "the standby receives", BACK_SECONDS)
        assert found
        return found

    def promote(self) -> None:
        """Makes a primary of a standby; returns when it is one."""
        self.execute("SELECT pg_promote(true, 60)")


def make_copy(primary: PostgresServer, directory: Path, name: str) -> None:
    """Makes the directory of a standby with a name."""
    source = f"host=127.0.0.1 port={primary.port} user={USER} application_name={name}"
    subprocess.run(
        as_unprivileged(
            [
                binaries() / "pg_basebackup",
                *("-D", directory, "-d", source, "-R", "-X", "stream", "-c", "fast", "--no-sync"),
            ]
        ),
        check=True,
        capture_output=True,
    )


class Pair:
    """Both nodes. `primary` and `standby` change places with each failover.

    `is_synchronous`: whether commits wait for the standby. `settings`: of both servers, besides.
    """

    def __init__(self, *, is_synchronous: bool = True, **settings: str) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="eliza-pair-"))
        names = ("one", "two")
        waits_for = names[::-1] if is_synchronous else ("", "")
        own = [{"synchronous_standby_names": name} for name in waits_for]
        # Nobody waits for the second node before it is there.
        self.primary = Node(names[0], self._root / names[0], **settings)
        make_copy(self.primary, self._root / names[1], names[1])
        self.standby = Node(names[1], self._root / names[1], **settings, **own[1])
        self.ports = self.primary.port, self.standby.port
        self.primary.stop()
        self.primary.require(own[0])
        self.primary.start()
        self._is_synchronous = is_synchronous
        self.until_together()

    def until_together(self) -> None:
        """Waits until the standby has what the primary has, and commits wait for it."""
        state = "sync" if self._is_synchronous else "async"
        until(
            lambda: self.primary.execute(
                f"SELECT 1 FROM pg_stat_replication WHERE application_name = '{self.standby.name}' "
                f"AND state = 'streaming' AND sync_state = '{state}'"
            ),
            "the standby is there",
            BACK_SECONDS,
        )

    def url(self, database: str) -> str:
        """The URL of a database, with both hosts."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return f"postgresql://{USER}@{hosts}/{database}"

    def change_places(self) -> None:
        """Promotes the standby; the primary must have ended."""
        self.standby.promote()
        self.primary, self.standby = self.standby, self.primary

    def promote_from_rest(self) -> None:
        """Starts the standby, which has ended, and promotes it; the primary must have ended, too."""
        self.standby.start()
        self.change_places()

    def fail_over(self, *, lag_seconds: float) -> float:
        """Kills the primary and promotes the standby, which has received nothing for a while. Returns when
        the primary was killed, by the monotonic clock.
        """
        receiver = self.standby.receiver()
        receiver.suspend()
        try:
            time.sleep(lag_seconds)
            self.primary.kill()
        finally:
            killed_s = time.monotonic()
            with suppress(psutil.NoSuchProcess):
                # It ends before it reads what the network has for it still.
                receiver.terminate()
                receiver.resume()
        self.change_places()
        return killed_s

    def close(self) -> None:
        """Ends both and removes their directories."""
        for node in (self.standby, self.primary):
            if node.process.poll() is None:
                node.stop(signal.SIGQUIT)
        shutil.rmtree(self._root, ignore_errors=True)
