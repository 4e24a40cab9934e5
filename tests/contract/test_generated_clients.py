"""Clients that public generators make of /openapi.json: every operation is there, and a type-checked program
of each runs.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.openapi import DOCUMENT, METHODS
from tests.support import node
from tests.support.service import ECHO, USER, Serve

PROGRAMS = Path(__file__).parent / "clients"
OPERATIONS = {
    item[method]["operationId"] for item in DOCUMENT["paths"].values() for method in METHODS if method in item
}


def run(directory: Path, *command: str | Path) -> str:
    """The standard output of a command that must succeed."""
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def converse(service: Serve, directory: Path, *command: str | Path) -> list[str]:
    """What a program of the generated client printed: the history of the conversation that it had."""
    return run(directory, *command, f"http://{service.rest}", ECHO, USER).splitlines()


def test_a_client_of_openapi_python_client_converses(service: Serve, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"post_hooks": [], "content_type_overrides": {"application/jsonl": "application/octet-stream"}}
        )
    )
    generate = [
        sys.executable,
        "-m",
        "openapi_python_client",
        "generate",
        "--fail-on-warning",
        "--config",
        "config.json",
    ]
    run(
        tmp_path,
        *generate,
        "--url",
        f"http://{service.rest}/openapi.json",
        "--meta",
        "none",
        "--output-path",
        "sessions_client",
    )
    made = {path.stem for path in (tmp_path / "sessions_client" / "api" / "default").glob("[!_]*.py")}
    assert made == {re.sub("(?=[A-Z])", "_", name).lower() for name in OPERATIONS}
    shutil.copy(PROGRAMS / "generated.py", tmp_path)
    # The generator's own code has casts that are not needed. What mypy knows of the libraries is kept.
    mypy = [sys.executable, "-m", "mypy", "--cache-dir", Path(sys.prefix) / "tests-mypy"]
    run(tmp_path, *mypy, "--strict", "--no-warn-redundant-casts", "generated.py")
    assert converse(service, tmp_path, sys.executable, "generated.py") == ["user Hello!", "agent Hello!"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory for a TypeScript program, with its packages."""
    (tmp_path / "node_modules").symlink_to(node.install())
    for name in ("tsconfig.json", "openapi-ts.config.mjs"):
        shutil.copy(PROGRAMS / name, tmp_path)
    return tmp_path


def check_and_converse(service: Serve, project: Path, program: str) -> None:
    shutil.copy(PROGRAMS / program, project)
    run(project, node.NODE, "node_modules/typescript/bin/tsc", "--project", ".")
    assert converse(service, project, node.NODE, program) == [
        "user Hello!",
        "agent Hello!",
        "user And again!",
        "agent And again!",
    ]


def test_a_client_of_openapi_typescript_converses(service: Serve, project: Path) -> None:
    url = f"http://{service.rest}/openapi.json"
    run(project, node.NODE, "node_modules/openapi-typescript/bin/cli.js", url, "--output", "schema.ts")
    made = re.findall(r'operations\["(\w+)"\]', (project / "schema.ts").read_text())
    assert sorted(made) == sorted(OPERATIONS)
    check_and_converse(service, project, "openapi_fetch.mts")


def test_a_client_of_hey_api_openapi_ts_converses(service: Serve, project: Path) -> None:
    url = f"http://{service.rest}/openapi.json"
    run(project, node.NODE, "node_modules/@hey-api/openapi-ts/bin/run.js", "--input", url)
    made = re.findall(r"^export const (\w+) = <", (project / "hey" / "sdk.gen.ts").read_text(), re.MULTILINE)
    assert sorted(made) == sorted(OPERATIONS)
    check_and_converse(service, project, "hey_api.mts")
