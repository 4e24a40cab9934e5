"""The units under a real systemd, which is the first process of a container."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.service.deploy.image import Image
from tests.service.deploy.kinds import cannot_run
from tests.service.deploy.programs import DEPLOY, complete, program, run
from tests.service.docs.pages import example
from tests.support.realtime.programs import free_address
from tests.support.service import ECHO, USER
from tests.support.waiting import until

KIND = "systemd boot"

pytestmark = pytest.mark.deploy(KIND)

SERVER = "eliza-sessions.service"
PACKAGES = "systemd systemd-sysv dbus"
BOOT_SECONDS = 120


class Machine:
    """A container whose first process is systemd. It shares this machine's network."""

    def __init__(self, root: Path, log: Path) -> None:
        line = [program("systemd-nspawn"), "--register=no", "--keep-unit", "--console=pipe", "-b", "-D", root]
        self._log = log
        with log.open("wb") as out:
            self._outer = subprocess.Popen(
                [str(word) for word in line], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )
        self._first = until(self._find_first, "systemd in the container", BOOT_SECONDS)

    def _find_first(self) -> int | None:
        assert self._outer.poll() is None, self._log.read_text()
        for pid in Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split():
            if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                return int(pid)
        return None

    def run(self, *line: str, check: bool = True) -> str:
        """Runs a command in the container until it ends; returns what it printed."""
        done = subprocess.run(
            [program("nsenter"), "-t", str(self._first), "-m", "-u", "-i", "-p", *line],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert not check or done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "-p", name, "--value", unit).strip()

    def is_up(self) -> bool:
        """Whether systemd answers."""
        return self.run("systemctl", "is-system-running", check=False).strip() in ("running", "degraded")

    def stop(self) -> None:
        """Ends the container."""
        self._outer.send_signal(signal.SIGTERM)
        try:
            self._outer.wait(timeout=60)
        finally:
            self._outer.kill()
            self._outer.wait()


def refuse_without_containers(root: Path) -> None:
    """Skips where this machine does not let systemd-nspawn start even `true`."""
    line = (program("systemd-nspawn"), "--register=no", "--keep-unit", "--console=pipe", "-D", str(root))
    done = complete((*line, "/bin/true"), 60)
    if done.returncode != 0:
        cannot_run(KIND, f"systemd-nspawn is refused: {done.stderr}")


@pytest.fixture
def machine(image: Image, tmp_path: Path) -> Iterator[Machine]:
    """Debian with systemd, and the program; neither a unit nor a user."""
    container = image.buildah("from", "--pull-never", image.base)
    install = f"apt-get update -qq && apt-get install -y -qq --no-install-recommends {PACKAGES}"
    image.buildah_online(
        KIND,
        *("run", "--isolation", "chroot", "--env", "DEBIAN_FRONTEND=noninteractive", container),
        *("--", "sh", "-c", install),
    )
    root = Path(image.buildah("mount", container))
    # What the docs' first lines install.
    run("cp", "-a", image.root / "opt/eliza-sessions", root / "opt")
    shutil.copytree(DEPLOY, root / "root/deploy")
    refuse_without_containers(root)
    started = Machine(root, tmp_path / "machine.log")
    try:
        until(started.is_up, "the end of the boot", BOOT_SECONDS)
        yield started
    finally:
        started.stop()
        image.buildah("rm", container)


def is_healthy(address: str) -> bool:
    """Whether the service says over REST that it is well."""
    try:
        url = f"http://{address}/api/messaging/sessions/health"
        return requests.get(url, timeout=20).status_code == 200
    except requests.ConnectionError:
        return False


def converse(address: str) -> str:
    """Creates a session over REST and gets a reply; returns the URL of the session."""
    url = f"http://{address}/api/messaging/sessions"
    created = requests.post(url, json={"agentId": ECHO, "userId": USER}, timeout=30)
    session = f"{url}/{created.json()['sessionId']}"
    body = {"content": "Hello!", "transport": "http"}
    sent = requests.post(f"{session}/messages", json=body, timeout=60)
    assert sent.json()["agentResponse"]["text"] == "Hello!"
    return session


def check_hardening(machine: Machine, unit: str) -> str:
    """The kernel's word for what a running unit may not do; returns its process."""
    assert machine.show(unit, "ActiveState") == "active"
    pid = machine.show(unit, "MainPID")
    lines = machine.run("cat", f"/proc/{pid}/status").splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert status["Uid"].split()[0] != "0"
    assert (int(status["CapEff"], 16), int(status["CapBnd"], 16)) == (0, 0)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    return pid


def test_the_docs_install_units_that_run_with_all_their_hardening(machine: Machine) -> None:
    grpc, rest, *facades = (free_address() for _ in range(4))
    ports = [address.rpartition(":")[2] for address in facades]
    program_lines, install = example("systemd").split("cp ", 1)
    assert program_lines.count("/opt/eliza-sessions") == 2
    # Other addresses than the default ones, because the network is this machine's.
    machine.run("mkdir", "/etc/eliza-sessions")
    settings = f"GRPC_ADDRESS={grpc}\\nREST_ADDRESS={rest}\\n"
    machine.run("sh", "-c", f"printf '{settings}' > /etc/eliza-sessions/eliza-sessions.env")
    machine.run(
        "sed", "-i", f"s/127.0.0.1:50051/{grpc}/", "/root/deploy/systemd/eliza-sessions-rest@.service"
    )
    machine.run("sh", "-euc", f"cd /root; cp {install}")
    # The start has returned, so it answers.
    assert is_healthy(rest)
    before = check_hardening(machine, SERVER)
    converse(rest)
    owner = machine.run("stat", "-c", "%U %a", "/var/lib/eliza-sessions/eliza-sessions.db").split()
    assert owner == ["eliza-sessions", "600"]

    several = example("systemd-rest").replace("@3001", f"@{ports[0]}").replace("@3002", f"@{ports[1]}")
    machine.run("sh", "-euc", f"cd /root; {several}")
    assert check_hardening(machine, SERVER) != before
    units = [f"eliza-sessions-rest@{port}.service" for port in ports]
    for unit, address in zip(units, facades, strict=True):
        check_hardening(machine, unit)
        until(lambda address=address: is_healthy(address), "a facade")
    session = converse(facades[0])
    assert not is_healthy(rest)

    machine.run("systemctl", "restart", SERVER)
    until(lambda: is_healthy(facades[1]), "a facade after the server's restart")
    assert requests.get(session.replace(facades[0], facades[1]), timeout=30).status_code == 200
    machine.run("systemctl", "stop", *units, SERVER)
    for unit in (SERVER, *units):
        assert machine.show(unit, "Result") == "success"
        assert machine.show(unit, "ExecMainStatus") == "0"
