"""The wheels of the server and of the Python client have the same stubs, and do not need each other."""

import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.support.once import made_once
from tests.support.service import ECHO, Serve

ROOT = Path(__file__).parents[3]
PROJECT = ROOT / "clients" / "python"
STUBS = ROOT / "protos" / "eliza" / "sessions" / "v1"
VENDORED = "eliza_sessions_client/v1/"

PROGRAM = f"""
import sys
from eliza_sessions_client import Client, converse_with
from eliza_sessions_client.v1 import session_pb2
with Client(sys.argv[1]) as client:
    session = client.create("{ECHO}", "{ECHO}")
    assert isinstance(session, session_pb2.Session)
    print(client.send_and_wait(session.session_id, "Hello!").content)
if "beside" in sys.argv:
    import server.cli
    from eliza.sessions.v1 import session_pb2 as theirs
    assert "site-packages" in server.cli.__file__ and theirs.__name__ == "eliza.sessions.v1.session_pb2"
    assert theirs.Session.FromString(session.SerializeToString()) == session
else:
    assert not any(name == "eliza" or name.startswith("eliza.") for name in sys.modules)
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*arguments: str | Path, cwd: Path) -> None:
    run(sys.executable, "-m", "pip", *arguments, cwd=cwd)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels by their names."""

    def build(directory: Path) -> None:
        pip("wheel", "-q", "--no-deps", "-w", directory, ROOT, PROJECT, cwd=directory)

    directory = made_once(tmp_path_factory, "wheels", build)
    return {path.name.partition("-")[0]: path for path in directory.glob("*.whl")}


def files(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


@pytest.mark.long
def test_the_stubs_are_the_same_but_for_the_name_in_their_imports(wheels: dict[str, Path]) -> None:
    ours, theirs = files(wheels["eliza_sessions_client"]), files(wheels["eliza_sessions"])
    stubs = {path.name: path.read_bytes() for path in STUBS.glob("*.py*")}
    assert {name.removeprefix(VENDORED) for name in ours if name.startswith(VENDORED)} == stubs.keys()
    for name, stub in stubs.items():
        found = ours[VENDORED + name]
        assert theirs[f"eliza/sessions/v1/{name}"] == stub
        assert found.replace(b"from eliza_sessions_client.v1 ", b"from eliza.sessions.v1 ") == stub, name
        assert not re.search(rb"^(from|import) eliza\.", found, re.MULTILINE), name


def test_no_file_belongs_to_both(wheels: dict[str, Path]) -> None:
    assert not files(wheels["eliza_sessions_client"]).keys() & files(wheels["eliza_sessions"]).keys()


def test_the_console_is_in_the_servers_wheel_whole(wheels: dict[str, Path]) -> None:
    found, console = files(wheels["eliza_sessions"]), ROOT / "rest_facade" / "console"
    wanted = [path for folder in ("templates", "static") for path in (console / folder).rglob("*")]
    assert len(wanted) > 20
    for path in wanted:
        if path.is_file():
            assert found[str(path.relative_to(ROOT))] == path.read_bytes()


def test_the_client_has_its_types_its_licence_and_two_dependencies(wheels: dict[str, Path]) -> None:
    found = files(wheels["eliza_sessions_client"])
    (metadata,) = [text.decode() for name, text in found.items() if name.endswith("/METADATA")]
    required = re.findall(r"^Requires-Dist: ([\w-]+)", metadata, re.MULTILINE)
    assert required == ["grpcio", "protobuf"]
    assert "eliza_sessions_client/py.typed" in found
    (licence,) = [text for name, text in found.items() if name.endswith("/licenses/LICENSE")]
    assert licence == (ROOT / "LICENSE").read_bytes()
    imported = set(re.findall(rb"^(?:from|import) (\w+)", b"\n".join(found.values()), re.MULTILINE))
    assert {b"google", b"grpc"} <= imported
    assert not any(b"import google.rpc" in text or b"from google.rpc" in text for text in found.values())
    assert not imported & {b"eliza", b"server", b"rest_facade", b"grpc_status"}


def test_the_server_does_not_need_the_client(wheels: dict[str, Path]) -> None:
    (metadata,) = [
        text for name, text in files(wheels["eliza_sessions"]).items() if name.endswith("/METADATA")
    ]
    assert b"eliza-sessions-client" not in metadata


def test_both_have_the_same_version() -> None:
    versions = {
        tomllib.loads((path / "pyproject.toml").read_text())["project"]["version"] for path in (ROOT, PROJECT)
    }
    assert len(versions) == 1


@pytest.mark.long
def test_they_work_side_by_side_and_each_alone(wheels: dict[str, Path], plain: Serve, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    (site,) = environment.glob("lib/*/site-packages")
    # Their dependencies are those that the tests have.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    (tmp_path / "program.py").write_text(PROGRAM)
    pip("--python", python, "install", "-q", "--no-deps", *wheels.values(), cwd=tmp_path)
    assert run(python, "program.py", plain.grpc, "beside", cwd=tmp_path) == "Hello!\n"
    pip("--python", python, "uninstall", "-q", "-y", "eliza-sessions", cwd=tmp_path)
    assert run(python, "program.py", plain.grpc, cwd=tmp_path) == "Hello!\n"
    pip("--python", python, "install", "-q", "--no-deps", wheels["eliza_sessions"], cwd=tmp_path)
    pip("--python", python, "uninstall", "-q", "-y", "eliza-sessions-client", cwd=tmp_path)
    assert run(python, "-m", "server.cli", "--version", cwd=tmp_path)
