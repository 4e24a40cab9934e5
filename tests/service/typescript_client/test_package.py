"""The package is what it says: current types, no dependency, the errors of the service, the same user ids."""

import json
import re
import shutil
import tarfile
import tomllib
import uuid
from pathlib import Path

import pytest

from eliza.sessions.errors import TABLE
from eliza_sessions_client import user_id_for
from tests.contract.openapi import DOCUMENT
from tests.service.docs.pages import blocks
from tests.service.typescript_client import project as client
from tests.service.typescript_client.project import CLIENT, ROOT, TYPES
from tests.support import node

HERE = Path(__file__).parent
SOURCES = sorted((CLIENT / "src").glob("*.js"))
PACKAGE = json.loads((CLIENT / "package.json").read_text())
GRPC_ONLY = {"AGENT_ALREADY_EXISTS", "DELIVERY_NOT_FOUND", "DELIVERY_ALREADY_ANSWERED", "DELIVERY_NOT_LEASED"}
"""Reasons of calls that REST does not have."""


def test_the_types_are_those_of_the_service_and_of_the_sources(tmp_path: Path) -> None:
    """This checks the types of the sources, too."""
    made = {path.name: path.read_text() for path in client.generate(tmp_path).iterdir()}
    written = {path.name: path.read_text() for path in TYPES.iterdir()}
    assert made == written, "run python -m tests.service.typescript_client.project"


def test_programs_of_users_are_checked(project: Path) -> None:
    """The README's examples, and a program that makes every call: also that wrong ones are refused."""
    for block in blocks(CLIENT / "README.md"):
        (project / block.name).write_text(block.code)
    for path in (CLIENT / "examples" / "use-session.js", *HERE.glob("t*.*js"), HERE / "conversation.mts"):
        shutil.copy(path, project)
    client.check(project)


def test_the_package_needs_nothing_and_holds_only_itself(archive: Path) -> None:
    assert not PACKAGE.keys() & {"dependencies", "peerDependencies", "optionalDependencies"}
    with tarfile.open(archive) as packed:
        names = {name.removeprefix("package/") for name in packed.getnames()}
    own = {
        str(path.relative_to(CLIENT))
        for directory in ("src", "types", "examples")
        for path in (CLIENT / directory).iterdir()
    }
    assert names == {"package.json", "README.md", "LICENSE", *own}
    imported = {name for path in SOURCES for name in re.findall(r'from "(.+?)"', path.read_text())}
    assert imported
    assert all(name.startswith("./") or name == "../types/schema.js" for name in imported)


def test_the_versions_are_those_of_the_repository() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (PACKAGE["version"], PACKAGE["license"]) == (project["version"], project["license"])
    tested = json.loads((Path(node.__file__).parent / "package.json").read_text())["dependencies"]
    assert PACKAGE["devDependencies"].items() <= tested.items()


def test_each_error_has_the_details_of_the_table() -> None:
    text = (CLIENT / "src" / "errors.js").read_text()
    rows = re.findall(r"^ \*   ([A-Z_]+):\s*(?:\n \*\s+)?\{(.*)\},$", text, re.MULTILINE)
    typed = {code: set(re.findall(r"(\w+)\??:", details)) for code, details in rows}
    ours = {code: set(row.details) for code, row in TABLE.items() if code not in GRPC_ONLY}
    assert set(DOCUMENT["components"]["schemas"]["ErrorCode"]["enum"]) <= ours.keys()
    assert {code: details - typed.get(code, set()) for code, details in ours.items()} == {
        code: set() for code in ours
    }
    # The client's own, and what the service has with access control only.
    access = {"UNAUTHENTICATED", "CREDENTIAL_EXPIRED", "PERMISSION_DENIED", "QUOTA_EXCEEDED"}
    assert typed.keys() - ours.keys() <= {"CONNECTION_FAILED", "UNEXPECTED_ANSWER", *access}


def test_user_ids_are_those_of_other_clients(project: Path) -> None:
    ids = ["anything", "", "42", str(uuid.uuid4()).upper(), "Ärger@example.com", "a/b?c#d", "𝄞", "x" * 10_000]
    program = f"""
        import {{ userIdFor }} from "@eliza-sessions/client";
        console.log(JSON.stringify(await Promise.all({json.dumps(ids)}.map((id) => userIdFor(id)))));
    """
    made = json.loads(client.run(project, node.NODE, "--input-type=module", "--eval", program))
    assert made == [user_id_for(id_) for id_ in ids]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_sources_are_short_and_narrow(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 400
    assert [line for line in lines if len(line) > 110] == []
