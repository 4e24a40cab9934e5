"""deploy/systemd: systemd takes the units without a word, and says how far they are from harmless."""

import re
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.service.deploy.programs import DEPLOY, run

pytestmark = pytest.mark.deploy("systemd")

UNITS: Final = DEPLOY / "systemd"
SERVER: Final = "eliza-sessions.service"
REST: Final = "eliza-sessions-rest@.service"
INSTALLED: Final = "/opt/eliza-sessions/bin/eliza-sessions"
MOST_EXPOSURE: Final = {SERVER: 15, REST: 13}
"""How exposed each may be, by systemd's measure: 100 is a service without any hardening."""


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with a program that is there."""
    ours = str(Path(sys.executable).parent / "eliza-sessions")
    for path in UNITS.glob("*.service"):
        text = path.read_text()
        assert INSTALLED in text
        (tmp_path / path.name).write_text(text.replace(INSTALLED, ours))
    (tmp_path / f"{SERVER}.d").mkdir()
    return tmp_path


def verify(directory: Path, name: str) -> str:
    """What systemd-analyze has to say of a unit: it ends well with a warning, too."""
    return run("sh", "-c", f"systemd-analyze verify --man=no '{directory / name}' 2>&1").strip()


@pytest.mark.parametrize("name", [SERVER, REST.replace("@", "@3001")])
def test_systemd_takes_the_unit(units: Path, name: str) -> None:
    if "@3001" in name:
        (units / name).symlink_to(units / REST)
    assert verify(units, name) == ""


def test_systemd_takes_the_server_without_rest(units: Path) -> None:
    addition = (UNITS / "rest.conf").read_text()
    assert addition.count(INSTALLED) == 1
    ours = str(Path(sys.executable).parent / "eliza-sessions")
    (units / f"{SERVER}.d" / "rest.conf").write_text(addition.replace(INSTALLED, ours))
    assert verify(units, SERVER) == ""


def test_systemd_names_a_mistake(units: Path) -> None:
    path = units / SERVER
    path.write_text(path.read_text().replace("NoNewPrivileges=", "NoNewPriviliges="))
    assert "NoNewPriviliges" in verify(units, SERVER)


@pytest.mark.parametrize("name", [SERVER, REST])
def test_the_exposure_stays_below_the_bound(units: Path, name: str, figures: list[str]) -> None:
    said = run(
        "systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSURE[name]}", units / name
    )
    (level,) = re.findall(r"Overall exposure level for .*: (\S+)", said)
    figures.append(f"systemd: exposure of {name} {level} of 10, at most {MOST_EXPOSURE[name] / 10}")
    assert float(level) <= MOST_EXPOSURE[name] / 10


def test_the_user_of_the_store_is_made(tmp_path: Path) -> None:
    (user,) = re.findall(r"^User=(.*)$", (UNITS / SERVER).read_text(), re.MULTILINE)
    (tmp_path / "etc").mkdir()
    run("systemd-sysusers", f"--root={tmp_path}", UNITS / "sysusers.conf")
    (line,) = (tmp_path / "etc/passwd").read_text().splitlines()
    name, *_, home, shell = line.split(":")
    assert (name, home, shell) == (user, "/var/lib/eliza-sessions", "/usr/sbin/nologin")


@pytest.mark.deploy
def test_the_stop_has_the_time_to_drain() -> None:
    for name in (SERVER, REST):
        (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", (UNITS / name).read_text(), re.MULTILINE)
        assert int(seconds) >= 10 + 5
