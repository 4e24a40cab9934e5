"""Versions of the service for the upgrade: the first one with a PostgreSQL store, the present one, and one
with a further migration. Each is a directory of sources that the present Python runs.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.clients import Ended
from tests.support.service import HIDDEN_PACKAGES, Serve, environment

ROOT: Final = Path(__file__).parents[2]
STORE: Final = "server/store/postgres"
MIGRATIONS: Final = f"{STORE}/migrations"
PARTS: Final = ("server", "rest_facade", "protos")
"""What the service runs of the repository."""

_TABLE: Final = re.compile(r"\b(INTO|FROM) commits\b")
_ADDS: Final = "CREATE TABLE commit_tokens (LIKE commits INCLUDING ALL);\n"
_TAKES_AWAY: Final = "DROP TABLE commits;\n"


class NoHistoryError(Exception):
    """The first version cannot be had here; the text says why."""


@dataclass(frozen=True)
class Version:
    """A version of the service: its sources, and the Python that has what it needs."""

    name: str
    sources: Path
    python: str = sys.executable

    @property
    def schema(self) -> int:
        """The number of its last migration."""
        return max(int(path.name[:4]) for path in (self.sources / MIGRATIONS).glob("*.pre.sql"))

    def start(self, directory: Path, address: str, **settings: str) -> Serve:
        """Starts a server of it."""
        settings |= {"GRPC_ADDRESS": address}
        if self.sources == ROOT:
            # As other tests start it, which is faster.
            return Serve(directory, "--no-rest", **settings)
        return Serve(directory, "--no-rest", command=self._command, PYTHONPATH=self._path, **settings)

    def run(self, *arguments: str, cwd: Path, **settings: str) -> Ended:
        """Runs a command of it."""
        done = subprocess.run(
            [*self._command, *arguments],
            cwd=cwd,
            env=environment(**settings, PYTHONPATH=self._path),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    @property
    def _command(self) -> tuple[str, ...]:
        return self.python, "-m", "server.cli"

    @property
    def _path(self) -> str:
        return os.pathsep.join([str(self.sources), str(self.sources / "protos"), HIDDEN_PACKAGES])


def present() -> Version:
    """The version of this directory."""
    return Version("present", ROOT)


def first(directory: Path, root: Path = ROOT) -> Version:
    """The first version that landed with a PostgreSQL store, of the history, in a directory.

    Raises NoHistoryError.
    """
    commit = first_commit(root)
    archive = subprocess.run(
        ["git", "archive", commit, *PARTS, "pyproject.toml"], cwd=root, capture_output=True, check=True
    )
    directory.mkdir(parents=True)
    subprocess.run(["tar", "-x"], input=archive.stdout, cwd=directory, check=True)
    return Version(f"first ({commit[:7]})", directory, _python_for(directory, root))


def first_commit(root: Path) -> str:
    """The first landed commit whose store begins with the first migration of today. Raises NoHistoryError.

    What landed are the first parents: a branch may have had a schema that nobody ever ran.
    """
    if not (root / ".git").exists():
        raise NoHistoryError(f"{root} has no git history: the first version is in a clone alone")
    if _git(root, "rev-parse", "--is-shallow-repository") != "false":
        raise NoHistoryError(f"{root} has a shallow history: `git fetch --unshallow` brings the whole")
    migration = f"{MIGRATIONS}/0001_initial.pre.sql"
    today = _git(root, "rev-parse", f"HEAD:{migration}")
    landed = _git(root, "rev-list", "--first-parent", "--reverse", "HEAD", "--", STORE).split()
    for commit in landed:
        if _git(root, "rev-parse", "--quiet", "--verify", f"{commit}:{migration}", missing="") == today:
            return commit
    raise NoHistoryError(f"no commit of {root} has the first migration as it is now")


def later(directory: Path, *, takes_away_too_early: bool = False) -> Version:
    """The present version with one more migration, in a directory.

    Its servers keep the tokens of their transactions in another table. The part before adds that, the part
    after removes the one that older servers write to with every group. `takes_away_too_early` does it before.
    """
    for part in PARTS:
        shutil.copytree(ROOT / part, directory / part, ignore=shutil.ignore_patterns("__pycache__"))
    changed = 0
    for path in (directory / STORE).glob("*.py"):
        text, count = _TABLE.subn(r"\1 commit_tokens", path.read_text())
        path.write_text(text)
        changed += count
    assert changed > 3, "the store has its tokens in another table now: change this, too"
    version = Version("later", directory)
    name = directory / MIGRATIONS / f"{version.schema + 1:04}_tokens"
    before, after = (_ADDS + _TAKES_AWAY, "") if takes_away_too_early else (_ADDS, _TAKES_AWAY)
    name.with_suffix(".pre.sql").write_text(before)
    if after:
        name.with_suffix(".post.sql").write_text(after)
    return version


def _python_for(directory: Path, root: Path) -> str:
    """The Python for sources: this one where they need the same packages, else one of their own."""
    wanted, ours = (_dependencies(one) for one in (directory, root))
    if wanted == ours:
        return sys.executable
    environment_directory = directory / ".venv"
    subprocess.run([sys.executable, "-m", "venv", environment_directory], check=True)
    python = str(environment_directory / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *sorted(wanted)], check=True)
    return python


def _dependencies(directory: Path) -> set[str]:
    project = tomllib.loads((directory / "pyproject.toml").read_text())["project"]
    return {*project["dependencies"], *project["optional-dependencies"]["postgres"]}


def _git(root: Path, *arguments: str, missing: str | None = None) -> str:
    """What git prints; `missing` where it fails and that is foreseen."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0 and missing is not None:
        return missing
    if done.returncode != 0:
        raise NoHistoryError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()
