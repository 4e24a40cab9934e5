"""A reader's walk through the pages: their blocks of bash, Python and JavaScript, in order, in one shell.

The shell is in a copy of the repository.
"""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.service.docs.pages import DOCS, README, ROOT, blocks
from tests.support.node import NODE, NPM
from tests.support.realtime.programs import free_address
from tests.support.service import SETTINGS

WALKED: Final = (README, *(DOCS / name for name in ("api.md", "retries.md", "agents.md")))
"""The pages whose blocks a reader runs, in this order; a block with a name has a test of its own instead."""

_SECONDS: Final = 220
_END_OF_BLOCK: Final = "\x1e"
_OUT_OF_THE_COPY: Final = shutil.ignore_patterns(
    ".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "node_modules", "*.db*"
)

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
"""What the shell does for the reader: it fails at an error, keeps the service in the background, and goes on
once that is ready.
"""


_END: Final = """
kill "$SERVER"
wait "$SERVER"
"""


def walk(directory: Path) -> dict[str, list[str]]:
    """Walks; returns what the blocks of each section printed.

    A command that fails, or an error as an answer, raises AssertionError.
    """
    copy = directory / "eliza-sessions"
    shutil.copytree(ROOT, copy, ignore=_OUT_OF_THE_COPY)
    steps = [
        block for page in WALKED for block in blocks(page) if block.language in COMMANDS and not block.name
    ]
    rest, grpc = free_address(), free_address()
    script = _SHELL + "".join(
        f"echo '# {block.section}' >&2\n{COMMANDS[block.language].format(block.code)}\nprintf "
        f"'{_END_OF_BLOCK}'\n"
        for block in steps
    )
    script += _END
    (copy / "walk.sh").write_text(script.replace("127.0.0.1:3000", rest).replace("127.0.0.1:50051", grpc))
    settings = {"REST_ADDRESS": rest, "GRPC_ADDRESS": grpc}
    with (directory / "out").open("w") as out, (directory / "errors").open("w") as errors:
        # In a session of its own, so that the service, too, can be ended whatever happens.
        process = subprocess.Popen(
            ["bash", "walk.sh"],
            cwd=copy,
            env={**_environment(directory), **settings},
            stdout=out,
            stderr=errors,
            start_new_session=True,
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


COMMANDS: Final = {
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
    ours = str(Path(sys.prefix) / "bin")
    path = [one for one in os.environ["PATH"].split(os.pathsep) if one != ours]
    python = shutil.which("python3", path=os.pathsep.join(path))
    scripts = {
        "npm": f'exec "{NODE}" "{NPM}" "$@"',
        # A pip in the reader's environment costs as much as all that it installs there: the tests' own pip
        # installs into it instead.
        "python3": f'[ "$2" != venv ] || set -- "$@" --without-pip\nexec "{python}" "$@"',
        "pip": f'exec "{sys.executable}" -m pip --python "$VIRTUAL_ENV/bin/python" "$@"',
    }
    for name, script in scripts.items():
        (commands / name).write_text(f"#!/bin/sh\n{script}\n")
        (commands / name).chmod(0o755)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith((*SETTINGS, "PYTHON", "VIRTUAL_ENV"))
    }
    # Most of what pip installs is never imported, and what is, Python compiles then.
    return {**kept, "PATH": os.pathsep.join([str(commands), *path]), "PIP_COMPILE": "0"}
