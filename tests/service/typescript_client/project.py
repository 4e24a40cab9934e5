"""The TypeScript client as its users have it: packed, installed beside TypeScript, and checked.

`python -m tests.service.typescript_client.project` writes its types anew, after a change of openapi.yaml or
of its sources.
"""

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from tests.support import node

ROOT: Final = Path(__file__).parents[3]
CLIENT: Final = ROOT / "clients" / "typescript"
TYPES: Final = CLIENT / "types"
OPENAPI: Final = ROOT / "rest_facade" / "routes" / "openapi.yaml"

TSC: Final = "node_modules/typescript/lib/tsc.js"
PROGRAMS: Final = """{
  "extends": "./node_modules/@eliza-sessions/client-settings/tsconfig.json",
  "compilerOptions": {
    "noEmit": true, "declaration": false, "emitDeclarationOnly": false, "rootDir": ".",
    "allowImportingTsExtensions": true, "skipLibCheck": false, "skipDefaultLibCheck": true,
    "types": ["node"], "jsx": "react-jsx"
  },
  "include": ["*.mts", "*.mjs", "*.js"]
}
"""
"""Checks a user's programs as strictly as the client's own sources; TypeScript's own types are taken as
right.
"""


def run(directory: Path, *command: str | Path, seconds: float = 120) -> str:
    """The standard output of a command that must succeed. It finds `node` on its PATH."""
    path = f"{node.NODE.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def copy(directory: Path) -> Path:
    """Copies the client and what it is made of into a directory; returns where it is there."""
    there = directory / "clients" / "typescript"
    shutil.copytree(CLIENT, there, ignore=shutil.ignore_patterns("node_modules", "LICENSE"))
    shutil.copy(ROOT / "LICENSE", directory)
    (there / "node_modules").symlink_to(node.install())
    return there


def generate(directory: Path) -> Path:
    """Makes the types of a copy; returns the directory that they are in."""
    there = copy(directory)
    shutil.rmtree(there / "types")
    run(there, node.NODE, "generate.mjs", OPENAPI)
    return there / "types"


def pack(directory: Path) -> Path:
    """Packs a copy as it is published; returns the archive."""
    there = copy(directory)
    run(there, node.NODE, node.NPM, "pack", "--offline")
    (archive,) = there.glob("*.tgz")
    return archive


def install(archive: Path, directory: Path) -> Path:
    """Installs the archive where a user's program is, beside what the tests have; returns that directory."""
    modules = directory / "node_modules"
    modules.mkdir()
    for one in node.install().iterdir():
        (modules / one.name).symlink_to(one)
    scope = modules / "@eliza-sessions"
    with tarfile.open(archive) as packed:
        packed.extractall(scope, filter="data")
    (scope / "package").rename(scope / "client")
    (scope / "client-settings").mkdir()
    shutil.copy(CLIENT / "tsconfig.json", scope / "client-settings")
    (directory / "package.json").write_text('{"type": "module"}')
    (directory / "tsconfig.json").write_text(PROGRAMS)
    return directory


def check(project: Path) -> None:
    """Checks the types of the programs in a project."""
    run(project, node.NODE, TSC, "--project", ".")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        made = generate(Path(temporary))
        shutil.rmtree(TYPES)
        shutil.copytree(made, TYPES)
