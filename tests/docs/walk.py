"""A reader's walk through the README: its blocks of bash, Python and JavaScript, in order, in one shell, in a copy of the repository."""

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from tests.docs.tables import README
from tests.harness import SETTINGS
from tests.node import NODE, NPM
from tests.realtime.clients.programs import free_address

_SECONDS: Final = 220
_END_OF_BLOCK: Final = "\x1e"
_OUT_OF_THE_COPY: Final = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "node_modules", "*.db*")

_SHELL: Final = """
set -euo pipefail
curl() { command curl --fail-with-body --show-error "$@"; }
SERVER=
mkfifo ready
exec 9<>ready
eliza-sessions() {
  [ "$1" = serve ] || { command eliza-sessions "$@"; return; }
  # Whoever starts the service anew has ended the one before.
  [ -z "$SERVER" ] || { kill "$SERVER"; wait "$SERVER"; }
  command eliza-sessions "$@" >&9 &
  SERVER=$!
  read -r -t 60 -u 9 said
  [[ $said == ready* ]] || { echo "not ready: $said" >&2; return 1; }
  echo "$said"
}
"""
"""What the shell does for the reader: it fails at an error, keeps the service in the background, and goes on once that is ready."""


_END: Final = """
kill "$SERVER"
wait "$SERVER"
"""


class Block(NamedTuple):
    """A block of code in the README. `name` is that of its `<!-- test: NAME -->`, which says that it has a test of its own."""

    section: str
    name: str
    language: str
    code: str


def blocks() -> list[Block]:
    """All of them that are not part of a list, in order."""
    found, section = [], ""
    pattern = r"^## (?P<section>[^\n]+)$|(?:^<!-- test: (?P<name>\S+) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$"
    for match in re.finditer(pattern, README.read_text(), re.DOTALL | re.MULTILINE):
        if match["section"]:
            section = match["section"]
        else:
            found.append(Block(section, match["name"] or "", match["language"], match["code"]))
    return found


def example(name: str) -> str:
    """The code of the block with this name."""
    (code,) = [block.code for block in blocks() if block.name == name]
    return code


def walk(directory: Path) -> dict[str, list[str]]:
    """Walks; returns what the blocks of each section printed. A command that fails, or an error as an answer, raises AssertionError."""
    copy = directory / "eliza-sessions"
    shutil.copytree(README.parent, copy, ignore=_OUT_OF_THE_COPY)
    steps = [block for block in blocks() if block.language in _COMMANDS and not block.name]
    rest, grpc = free_address(), free_address()
    script = _SHELL + "".join(
        f"echo '# {block.section}' >&2\n{_COMMANDS[block.language].format(block.code)}\nprintf '{_END_OF_BLOCK}'\n" for block in steps
    )
    script += _END
    (copy / "walk.sh").write_text(script.replace("127.0.0.1:3000", rest).replace("127.0.0.1:50051", grpc))
    settings = {"REST_ADDRESS": rest, "GRPC_ADDRESS": grpc}
    with (directory / "out").open("w") as out, (directory / "errors").open("w") as errors:
        # In a session of its own, so that the service, too, can be ended whatever happens.
        process = subprocess.Popen(
            ["bash", "walk.sh"], cwd=copy, env={**_environment(directory), **settings}, stdout=out, stderr=errors, start_new_session=True
        )
    try:
        status = process.wait(_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    printed = (directory / "out").read_text().split(_END_OF_BLOCK)
    assert status == 0, f"{printed[-1]}\n{(directory / 'errors').read_text()}"
    said: dict[str, list[str]] = {}
    for block, text in zip(steps, printed, strict=False):
        said.setdefault(block.section, []).append(text)
    return said


_COMMANDS: Final = {
    "bash": "{}",
    "python": "python - <<'END'\n{}END",
    "js": "node - <<'END'\n{}END",
}
"""How each language is run."""


def _environment(directory: Path) -> dict[str, str]:
    """That of a fresh shell: without our environment and settings, with node and npm."""
    commands = directory / "bin"
    commands.mkdir()
    (commands / "node").symlink_to(NODE)
    (commands / "npm").write_text(f'#!/bin/sh\nexec "{NODE}" "{NPM}" "$@"\n')
    (commands / "npm").chmod(0o755)
    ours = str(Path(sys.prefix) / "bin")
    path = [str(commands), *(one for one in os.environ["PATH"].split(os.pathsep) if one != ours)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith((*SETTINGS, "PYTHON", "VIRTUAL_ENV"))}
    return {**kept, "PATH": os.pathsep.join(path)}
