"""Patroni with etcd: two nodes, of which it makes one the primary and the other its synchronous standby. The
primary's node is killed under load, and nothing of ours decides what happens then.

Patroni is installed into an environment of its own, from PyPI; etcd is Debian's.
"""

import asyncio
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import psutil
import requests
import yaml

from tests.campaigns.failover.service_load import Report, ServiceLoad, endure_served
from tests.support.postgres import USER, as_unprivileged, binaries, free_port
from tests.support.waiting import until

PATRONI: Final = "patroni[etcd3,psycopg3]==4.1.5"
TTL_SECONDS: Final = 20
"""After which a primary that is silent is replaced: the least that Patroni takes."""
UP_SECONDS: Final = 180.0


def install(root: Path) -> tuple[Path, Path]:
    """Brings the programs `patroni` and `etcd`; returns where they are."""
    environment = root / "patroni" / "bin"
    _run([sys.executable, "-m", "venv", root / "patroni"], root)
    _run([environment / "python", "-m", "pip", "install", "-q", PATRONI], root)
    if found := shutil.which("etcd"):
        return environment / "patroni", Path(found)
    # Unpacked only: installed it would be a service of this machine.
    packages = root / "packages"
    packages.mkdir()
    _run(["apt-get", "download", "-qq", "etcd-server"], packages)
    (package,) = packages.glob("etcd-server_*.deb")
    _run(["dpkg", "-x", package, root / "etcd"], packages)
    return environment / "patroni", root / "etcd" / "usr" / "bin" / "etcd"


def _run(command: Sequence[str | Path], directory: Path) -> None:
    """Runs a command; shows what it said only where it fails."""
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} has failed:\n{done.stdout}{done.stderr}")


class PatroniNode:
    """One node: Patroni and the PostgreSQL that it runs."""

    def __init__(self, name: str, root: Path, patroni: Path, etcd_port: int) -> None:
        self.name = name
        self.port, self._rest_port = free_port(), free_port()
        self._patroni = patroni
        self._log = root / f"{name}.log"
        self._file = root / f"{name}.yml"
        self._file.write_text(yaml.safe_dump(self._configuration(root, etcd_port)))
        self._process: subprocess.Popen[bytes] | None = None

    def _configuration(self, root: Path, etcd_port: int) -> dict[str, Any]:
        user = {"username": USER, "password": "unused"}
        return {
            "scope": "eliza",
            "name": self.name,
            "restapi": {"listen": f"127.0.0.1:{self._rest_port}"},
            "etcd3": {"host": f"127.0.0.1:{etcd_port}"},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL_SECONDS,
                    "loop_wait": 2,
                    "retry_timeout": 5,
                    "synchronous_mode": True,
                    "postgresql": {
                        "use_pg_rewind": True,
                        "parameters": {"wal_retrieve_retry_interval": "200ms"},
                    },
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{self.port}",
                "connect_address": f"127.0.0.1:{self.port}",
                "data_dir": str(root / self.name),
                "bin_dir": str(binaries()),
                "pgpass": str(root / f"{self.name}.pgpass"),
                "authentication": {"superuser": user, "replication": user, "rewind": user},
                "parameters": {"unix_socket_directories": "", "wal_log_hints": "on", "timezone": "UTC"},
                "pg_hba": [
                    "host all all 127.0.0.1/32 trust",
                    "host replication all 127.0.0.1/32 trust",
                ],
                # What pg_rewind cannot mend is made anew.
                "remove_data_directory_on_rewind_failure": True,
                "remove_data_directory_on_diverged_timelines": True,
            },
        }

    def start(self) -> None:
        """Starts Patroni, which does the rest by itself."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                as_unprivileged([self._patroni, self._file]), stdout=log, stderr=log
            )

    def is_a(self, role: str) -> bool:
        """Whether Patroni says that this node is a `primary` or a `sync` standby."""
        with suppress(requests.RequestException):
            return requests.get(f"http://127.0.0.1:{self._rest_port}/{role}", timeout=2).status_code == 200
        return False

    def kill(self) -> None:
        """Ends Patroni and its PostgreSQL at once, as a power cut does."""
        if self._process is None:
            return
        # PostgreSQL is no child of Patroni's main process for long: it is known by its directory.
        family = [self._process.pid, *self._postgres()]
        for pid in family:
            with suppress(psutil.NoSuchProcess):
                one = psutil.Process(pid)
                for each in (one, *one.children(recursive=True)):
                    with suppress(psutil.NoSuchProcess):
                        each.kill()
        self._process.wait(timeout=60)
        self._process = None

    def _postgres(self) -> list[int]:
        directory = Path(yaml.safe_load(self._file.read_text())["postgresql"]["data_dir"])
        with suppress(FileNotFoundError):
            return [int((directory / "postmaster.pid").read_text().split()[0])]
        return []

    def log(self) -> str:
        """What it has said last."""
        return self._log.read_text()[-3000:]


class PatroniPair:
    """Two nodes and etcd, running. `up_s`: how long it took until both were there."""

    def __init__(self, root: Path) -> None:
        self._root = root
        patroni, etcd = install(root)
        begun_s = time.monotonic()
        port, peers = free_port(), free_port()
        here, there = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peers}"
        with (root / "etcd.log").open("ab") as log:
            self._etcd = subprocess.Popen(
                [
                    *(etcd, "--data-dir", root / "etcd-data", "--name", "etcd"),
                    *("--listen-client-urls", here, "--advertise-client-urls", here),
                    *("--listen-peer-urls", there, "--initial-advertise-peer-urls", there),
                    *("--initial-cluster", f"etcd={there}"),
                ],
                stdout=log,
                stderr=log,
            )
        self.nodes = [PatroniNode(name, root, patroni, port) for name in ("one", "two")]
        try:
            for node in self.nodes:
                node.start()
            self.until_together()
        except BaseException:
            self.close()
            raise
        self.up_s = time.monotonic() - begun_s

    def primary(self) -> PatroniNode | None:
        """The node that is the primary, if there is one."""
        return next((node for node in self.nodes if node.is_a("primary")), None)

    def until_together(self) -> None:
        """Waits until one node is the primary, and the other its synchronous standby."""
        until(
            lambda: self.primary() and any(node.is_a("sync") for node in self.nodes),
            "\n".join(["a primary and its standby", *(node.log() for node in self.nodes)]),
            UP_SECONDS,
        )

    def url(self, database: str) -> str:
        """The URL of a database, with both hosts."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"postgresql://{USER}@{hosts}/{database}"

    def make_database(self, name: str) -> None:
        """Makes an empty database on the primary."""
        psql = [binaries() / "psql", "-X", "-q", self.url("postgres") + "?target_session_attrs=read-write"]
        subprocess.run([*psql, "-c", f"CREATE DATABASE {name} TEMPLATE template0"], check=True)

    def close(self) -> None:
        """Ends everything."""
        for node in self.nodes:
            node.kill()
        self._etcd.send_signal(signal.SIGKILL)
        self._etcd.wait(timeout=60)


@contextmanager
def running() -> Iterator[PatroniPair]:
    """Both nodes in a directory that is removed afterwards."""
    root = Path(tempfile.mkdtemp(prefix="eliza-patroni-"))
    try:
        pair = PatroniPair(root)
        try:
            yield pair
        finally:
            pair.close()
    finally:
        shutil.rmtree(root, ignore_errors=True)


async def kill_primaries(times: int, seed: int, *, senders: int = 6) -> Report:
    """Kills the node of the primary so often, once both nodes are there."""
    choose = random.Random(seed)
    with running() as pair:
        print(f"etcd and two nodes were up after {pair.up_s:.1f} s", flush=True)
        await asyncio.to_thread(pair.make_database, "sessions")

        async def trouble(load: ServiceLoad) -> None:
            for _ in range(times):
                await load.until_all_served()
                await asyncio.sleep(choose.random())
                killed = await asyncio.to_thread(pair.primary)
                assert killed
                await asyncio.to_thread(killed.kill)
                killed_s = time.monotonic()
                load.report.troubles["nodes of the primary killed"] += 1
                await load.note_pause(killed_s)
                if not load.is_sound():
                    return
                await asyncio.to_thread(killed.start)
                started_s = time.monotonic()
                await asyncio.to_thread(pair.until_together)
                print(
                    f"the first new acknowledgement after {load.report.pauses_s[-1]:.1f} s; the old primary "
                    f"is a synchronous standby {time.monotonic() - started_s:.1f} s after its start",
                    flush=True,
                )

        return await endure_served(pair.url("sessions"), trouble, seed, senders=senders)
