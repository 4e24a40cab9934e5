"""The image: built without a daemon, it runs read-only as an unprivileged user, and stops in time."""

import re
import shlex
import shutil
import time
from itertools import pairwise
from pathlib import Path

import pytest
import requests

from tests.service.deploy.image import Image, container
from tests.service.deploy.programs import DEPLOY, run
from tests.service.docs.pages import ROOT, example
from tests.support.metrics import scrape
from tests.support.service import ECHO, USER

pytestmark = pytest.mark.deploy("image")

OWNER = 10001
LOOPBACK = dict.fromkeys(("GRPC_ADDRESS", "REST_ADDRESS", "METRICS_ADDRESS"), "127.0.0.1:0")
MEGABYTE = 1_000_000
MOST_MEGABYTES = 140
"""What the image may add to its base."""


@pytest.mark.deploy("hadolint")
def test_hadolint_has_nothing_to_say() -> None:
    assert run("hadolint", "--no-color", DEPLOY / "Dockerfile") == ""


@pytest.mark.deploy
def test_the_version_is_that_of_the_package() -> None:
    (version,) = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    named = re.findall(r"eliza-sessions:(\d[\w.]*)", (DEPLOY / "Dockerfile").read_text())
    named += re.findall(r"image: eliza-sessions:(\S+)", (DEPLOY / "compose.yaml").read_text())
    named += re.findall(r"image: eliza-sessions:(\S+)", (DEPLOY / "compose.postgres.yaml").read_text())
    for directory in ("base", "postgres"):
        file = DEPLOY / "kustomize" / directory / "kustomization.yaml"
        named += re.findall(r"newTag: (\S+)", file.read_text())
    assert named == [version] * 6


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A volume that belongs to the image's user, as an engine makes it of /data."""
    path = tmp_path / "data"
    path.mkdir(mode=0o700)
    shutil.chown(path, OWNER, OWNER)
    return path


def test_its_settings_fit_the_service(image: Image) -> None:
    settings = image.settings
    assert (settings["User"], settings["WorkingDir"]) == ("10001:10001", "/data")
    assert settings["Volumes"] == {"/data": {}}
    assert settings["StopSignal"] == "SIGTERM"
    assert settings["ExposedPorts"].keys() == {"50051/tcp", "3000/tcp"}
    assert settings["Healthcheck"]["Test"][:3] == ["CMD", "eliza-sessions", "probe"]
    data = (image.root / "data").stat()
    assert (data.st_uid, data.st_gid, data.st_mode & 0o777) == (OWNER, OWNER, 0o700)


def test_it_holds_no_compiler_and_no_source(image: Image) -> None:
    """Neither a compiler, nor pip, nor what the build used; and no file that its user could change."""
    commands = {path.name for path in image.root.rglob("bin/*")}
    assert "eliza-sessions" in commands
    assert commands & {"gcc", "cc", "g++", "make", "pip", "pip3", "cargo"} == set()
    assert not (image.root / "src").exists()
    assert not (image.root / "tools").exists()
    changeable = [
        path
        for path in (image.root / "opt").rglob("*")
        if not path.is_symlink() and (path.stat().st_uid != 0 or path.stat().st_mode & 0o022)
    ]
    assert changeable == []


def test_its_size_stays_below_the_bound(image: Image, figures: list[str]) -> None:
    whole, base = image.size(image.name), image.size(image.base)
    figures.append(f"image: {whole / MEGABYTE:.0f} MB, of them base {base / MEGABYTE:.0f} MB")
    assert whole - base < MOST_MEGABYTES * MEGABYTE


def test_it_refuses_to_stand_open(image: Image, data: Path) -> None:
    """Its own addresses are those of all interfaces, and there is no authentication."""
    done = image.run(data, *image.settings["Entrypoint"], *image.settings["Cmd"])
    assert (done.returncode, done.stdout) == (1, "")
    assert "ALLOW_OPEN=true" in done.stderr


def test_it_serves_on_a_read_only_root_and_stops_within_its_grace(
    image: Image, data: Path, tmp_path: Path, figures: list[str]
) -> None:
    probe = image.settings["Healthcheck"]["Test"][1:]
    with container(image, data, tmp_path / "log", **LOOPBACK) as running:
        status = running.status()
        assert status["Uid"].split() == [str(OWNER)] * 4
        assert status["Gid"].split() == [str(OWNER)] * 4
        assert status["Groups"].split() == []
        assert (status["NoNewPrivs"], int(status["CapEff"], 16), int(status["CapBnd"], 16)) == ("1", 0, 0)
        assert status["NSpid"].split()[-1] == "1"

        url = f"http://{running.addresses['rest']}/api/messaging/sessions"
        created = requests.post(url, json={"agentId": ECHO, "userId": USER}, timeout=30)
        assert created.status_code == 201, created.text
        session = created.json()["sessionId"]
        body = {"content": "Hello!", "transport": "http"}
        sent = requests.post(f"{url}/{session}/messages", json=body, timeout=60).json()
        assert sent["agentResponse"]["text"] == "Hello!"

        assert scrape(running.addresses["metrics"]).sum("eliza_live_sessions") == 1

        healthy = image.run(data, *probe, GRPC_ADDRESS=running.addresses["grpc"])
        assert (healthy.returncode, healthy.stdout) == (0, "status: SERVING\n")
        alive = image.run(data, *probe, "-service=alive", GRPC_ADDRESS=running.addresses["grpc"])
        assert alive.returncode == 0

        began = time.monotonic()
        assert running.signal(image.settings["StopSignal"]) == 0
        stop_s = time.monotonic() - began
        assert stop_s < stop_seconds()
        gone = image.run(data, *probe, GRPC_ADDRESS=running.addresses["grpc"])
        assert gone.returncode == 2
    figures.append(
        f"image: ready {running.start_s:.1f} s after its start,"
        f" ended {stop_s:.1f} s after {image.settings['StopSignal']} of {stop_seconds():g} s"
    )
    assert all(path.stat().st_uid == OWNER for path in data.iterdir())
    with container(image, data, tmp_path / "again", **LOOPBACK) as running:
        url = f"http://{running.addresses['rest']}/api/messaging/sessions/{session}/messages"
        messages = requests.get(url, timeout=30).json()["messages"]
        assert [message["content"] for message in messages] == ["Hello!", "Hello!"]


def stop_seconds() -> float:
    """The grace that the compose file gives."""
    (seconds,) = re.findall(r"stop_grace_period: (\d+)s", (DEPLOY / "compose.yaml").read_text())
    return float(seconds)


def test_nothing_but_its_volume_can_be_written(image: Image, data: Path) -> None:
    places = "/ /opt /etc /var /root /home"
    script = f"for place in {places}; do touch $place/x 2>/dev/null && echo $place; done; touch /data/x"
    done = image.run(data, "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert (data / "x").exists()


def test_other_commands_and_the_facade_run_in_it(image: Image, data: Path, tmp_path: Path) -> None:
    assert image.run(data, "eliza-sessions", "--version").stdout.startswith("eliza-sessions")
    with (
        container(image, data, tmp_path / "server", "serve", "--no-rest", **LOOPBACK) as server,
        container(
            image, data, tmp_path / "rest", "rest", "--server", server.addresses["grpc"], **LOOPBACK
        ) as rest,
    ):
        health = f"http://{rest.addresses['rest']}/api/messaging/sessions/health"
        assert requests.get(health, timeout=30).json()["status"] == "healthy"
        copied = image.run(data, "eliza-sessions", "backup", "/data/copy.db")
        assert copied.returncode == 0, copied.stderr
        checked = image.run(data, "eliza-sessions", "check", DATABASE_URL="sqlite:////data/copy.db")
        assert checked.returncode == 0, checked.stderr


@pytest.mark.deploy
def test_the_build_sees_only_what_it_copies() -> None:
    """.dockerignore lets in what the Dockerfile copies: no database, key or environment of a developer."""
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.*)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
        for word in line.split()[:-1]
    }
    assert "*" in rules
    assert copied == allowed


@pytest.mark.deploy
def test_the_commands_of_the_docs() -> None:
    """The build is that of the tests, and the run asks for what the compose file asks for."""
    build, run_line = example("image").replace("\\\n", "").splitlines()
    (name,) = re.findall(r"image: (eliza-sessions:\S+)", (DEPLOY / "compose.yaml").read_text())
    assert shlex.split(build) == ["docker", "build", "-f", "deploy/Dockerfile", "-t", name, "."]
    options = shlex.split(run_line)
    assert options[:3] == ["docker", "run", "--rm"]
    assert options[-1] == name
    asked = set(pairwise(options))
    assert {
        ("--tmpfs", "/tmp"),
        ("--cap-drop", "ALL"),
        ("--security-opt", "no-new-privileges"),
        ("-e", "ALLOW_OPEN=true"),
        ("-p", "127.0.0.1:3000:3000"),
        ("-p", "127.0.0.1:50051:50051"),
        ("-v", "eliza-sessions:/data"),
    } <= asked
    assert "--read-only" in options
