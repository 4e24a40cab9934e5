"""`tests/run_deploy` decides what a machine can run. That it installs and runs everything, .ci/run shows."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

from tests.service.deploy import downloads, prepare
from tests.service.deploy.downloads import (
    DownloadError,
    WrongDownloadError,
    download,
    find_network_failure,
    run_online,
    seconds_left,
)
from tests.service.deploy.kinds import CANNOT_RUN, DEADLINE, KINDS
from tests.service.deploy.prepare import PACKAGES, find_reasons, install_packages, install_wheels
from tests.service.deploy.programs import complete, program
from tests.service.docs.pages import ROOT, example
from tests.support.waiting import until

RUN = ROOT / example("tests/run_deploy").strip()


def write_program(directory: Path, name: str, body: str) -> Path:
    """A program of the test's own: a script."""
    path = directory / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory whose programs come first."""
    directory = tmp_path / "programs"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    return directory


@pytest.mark.parametrize(
    "said",
    [
        "E: Failed to fetch http://deb.example/x  Temporary failure resolving 'deb.example'",
        "E: Failed getting release file http://deb.example/debian/dists/bookworm/Release",
        "WARNING: Retrying (Retry(total=1, connect=None)) after connection broken by 'ReadTimeoutError'",
        "curl: (6) Could not resolve host: deb.example",
    ],
)
def test_a_failure_of_the_network_is_seen(said: str) -> None:
    assert find_network_failure(f"first\n  {said}\nlast") == said
    assert find_network_failure("error: package directory 'server' does not exist\nexit status 1") is None


def _command_lines() -> list[bytes]:
    """The command line of each process of this machine."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            lines.append(path.read_bytes())
    return lines


def test_a_download_that_hangs_is_ended_with_its_children(programs: Path) -> None:
    write_program(programs, "hang", "sleep 77.5 & sleep 77.5")
    with pytest.raises(DownloadError, match="hang took longer than 1 s"):
        download("hang", seconds=1)
    # A killed process is in the list until the kernel has taken it down.
    until(lambda: b"sleep\x0077.5\x00" not in _command_lines(), "the end of the children")


def test_a_download_that_fails_says_why(programs: Path) -> None:
    write_program(
        programs, "fetch", "echo 'W: some warning'; echo 'E: Unable to locate package' >&2; exit 100"
    )
    with pytest.raises(DownloadError, match="fetch: E: Unable to locate package"):
        download("fetch", seconds=60)


def test_downloads_leave_time_for_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DEADLINE, raising=False)
    assert seconds_left(300) == 300
    monkeypatch.setattr(downloads.time, "time", lambda: 1000.0)
    monkeypatch.setenv(DEADLINE, str(1000 + downloads.RESERVE_SECONDS + 50))
    assert (seconds_left(300), seconds_left(20)) == (50, 20)
    monkeypatch.setenv(DEADLINE, "1000")
    assert seconds_left(300) == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("echo 'Temporary failure resolving deb.example' >&2; exit 100", "image: .*Temporary failure"),
        ("sleep 77", "image: .*bring took longer than 1 s"),
    ],
)
def test_a_program_that_the_network_fails_skips_its_tests(programs: Path, body: str, reason: str) -> None:
    write_program(programs, "bring", body)
    with pytest.raises(pytest.skip.Exception, match=reason):
        run_online("image", str(programs / "bring"), seconds=1)


@pytest.mark.parametrize(
    "body", ["echo 'no such instruction'; exit 1", "echo 'Retrying (Retry(total=0))'; echo corrupt; exit 1"]
)
def test_a_program_that_fails_by_itself_fails_its_tests(programs: Path, body: str) -> None:
    write_program(programs, "bring", body)
    with pytest.raises(AssertionError, match="bring"):
        run_online("image", str(programs / "bring"), seconds=60)


def test_packages_want_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare.os, "geteuid", lambda: 1000)
    with pytest.raises(DownloadError, match="no root"):
        install_packages(["nginx"])


def test_packages_are_installed_after_the_lists_are_fetched(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare.os, "geteuid", lambda: 0)
    write_program(programs, "apt-get", f'echo "$@" >> {programs}/said')
    install_packages(["prometheus", "buildah", "prometheus"])
    update, install = (programs / "said").read_text().splitlines()
    assert update.startswith("update ")
    assert install.startswith("install -y --no-install-recommends ")
    assert install.endswith(" buildah prometheus prometheus")


def test_a_package_with_a_wrong_checksum_is_a_failure(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare.os, "geteuid", lambda: 0)
    write_program(programs, "apt-get", "echo 'E: Failed to fetch x  Hash Sum mismatch'; exit 100")
    with pytest.raises(WrongDownloadError, match="Hash Sum mismatch"):
        install_packages(["nginx"])


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that pip takes wheels from, instead of an index, with one wheel."""
    directory = tmp_path / "wheels"
    directory.mkdir()
    with zipfile.ZipFile(directory / "tried-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tried-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tried\nVersion: 1.0\n")
        wheel.writestr(
            "tried-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("tried-1.0.dist-info/RECORD", "")
    for name, value in {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(directory),
        "PIP_TARGET": str(tmp_path / "installed"),
    }.items():
        monkeypatch.setenv(name, value)
    return directory


@pytest.mark.deploy
def test_a_wheel_is_held_to_its_checksum(index: Path, tmp_path: Path) -> None:
    (wheel,) = index.iterdir()
    requirements = tmp_path / "requirements.txt"
    checksum = hashlib.sha256(wheel.read_bytes()).hexdigest()
    requirements.write_text(f"tried==1.0 --hash=sha256:{checksum}\n")
    install_wheels(requirements)
    assert (tmp_path / "installed" / "tried-1.0.dist-info").exists()
    requirements.write_text(f"tried==1.0 --hash=sha256:{checksum[::-1]}\n")
    with pytest.raises(WrongDownloadError, match="DO NOT MATCH"):
        install_wheels(requirements)


@pytest.mark.deploy
def test_a_wheel_that_cannot_be_had_is_a_reason(index: Path, tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"missing==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(DownloadError, match=r"No matching distribution found for missing==1\.0"):
        install_wheels(requirements)


def test_each_wheel_has_a_version_and_checksums() -> None:
    text = prepare.REQUIREMENTS.read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines
    for line in lines:
        name, *hashes = line.split()
        assert "==" in name
        assert hashes, name
        assert all(one.startswith("--hash=sha256:") for one in hashes), name


def test_what_a_kind_lacks_is_its_reason() -> None:
    without = {"nginx": "no nginx: no apt-get\nto install it", "buildah": "no buildah: no root to install it"}
    reasons = find_reasons(KINDS, without, lambda: "unshare is refused")
    assert reasons == {
        "image": "no buildah: no root to install it",
        "nginx": "no nginx: no apt-get to install it",
        "systemd boot": "no buildah: no root to install it",
    }
    assert find_reasons(KINDS, {}, lambda: "no root") == {"image": "no root", "systemd boot": "no root"}
    assert find_reasons(KINDS, {}, lambda: None) == {}


def test_each_program_has_a_source() -> None:
    wheels = prepare.REQUIREMENTS.read_text()
    for name in {one for kind in KINDS.values() for one in kind.programs} - PACKAGES.keys():
        assert name in wheels, name


def test_only_root_makes_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare.os, "geteuid", lambda: 1000)
    assert prepare.why_no_roots.__wrapped__() == "no root"


@pytest.mark.deploy("image")
@pytest.mark.parametrize(
    ("options", "reason"),
    [(["--bounding-set=-sys_admin"], "unshare, mount or chroot is refused: .*"), ([], "None")],
    ids=["without a right", "as it is"],
)
def test_a_machine_that_refuses_containers_is_known(options: list[str], reason: str) -> None:
    code = "from tests.service.deploy import prepare; print(prepare.why_no_roots())"
    done = complete([program("setpriv"), *options, sys.executable, "-c", code], 120, cwd=ROOT)
    assert re.fullmatch(reason, done.stdout.strip()), done.stdout + done.stderr


@pytest.mark.deploy
def test_a_kind_that_cannot_run_is_skipped_and_its_reason_is_printed(tmp_path: Path) -> None:
    reasons = tmp_path / "reasons"
    reasons.write_text('{"nginx": "no nginx: no apt-get to install it"}')
    line = (sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "deploy", "-p", "no:cacheprovider")
    done = subprocess.run(
        [*line, str(Path(__file__).with_name("test_nginx.py"))],
        cwd=ROOT,
        env={**os.environ, CANNOT_RUN: str(reasons)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nginx: no nginx: no apt-get to install it (6 tests)" in done.stdout
    assert "6 skipped" in done.stdout


def test_the_whole_run_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    copy = tmp_path / "tests" / "run_deploy"
    shutil.copy(RUN, copy)
    write_program(tmp_path / "tests", "run", "exec sleep 60")
    settings = {name: value for name, value in os.environ.items() if name != DEADLINE}
    done = subprocess.run(
        [copy],
        env={**settings, "DEPLOY_TESTS_SECONDS": "1"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 124
    assert "not done after 1 seconds" in done.stderr
