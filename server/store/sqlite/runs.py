"""Notes of how the last backup and the last check of a store have ended, in small files beside it.

They are files because the commands run beside the service, and one process alone writes to the store. So a
note also survives where the store itself is damaged, and a command changes nothing in what it reads.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, TypeAlias

import orjson

from server.store.sqlite.file import real_path
from server.store.values import Run, Runs

Kind: TypeAlias = Literal["backup", "check"]
"""Which command has run."""

MAX_NOTE_BYTES: Final = 8192
MAX_DETAIL: Final = 1000
"""How long a note is at most, and how much of its detail is kept, in code points."""


def note_path(path: Path, kind: Kind) -> Path:
    """Where the note of a command on a store is."""
    path = real_path(path)
    return path.with_name(f"{path.name}.last-{kind}")


def write_run(path: Path, kind: Kind, run: Run) -> None:
    """Notes how a command on a store has ended, in the place of its last note. Raises OSError."""
    note = note_path(path, kind)
    fresh = note.with_name(f"{note.name}.{secrets.token_hex(4)}.partial")
    text = orjson.dumps(run._replace(detail=run.detail[:MAX_DETAIL])._asdict())
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(fresh, flags, 0o600), "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(note)
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


def read_runs(path: Path) -> Runs:
    """The notes of a store. One that is not there, or cannot be read, says nothing."""
    return Runs(_read(note_path(path, "backup")), _read(note_path(path, "check")))


def _read(note: Path) -> Run | None:
    try:
        # A pipe that somebody has put there must not hold up the service.
        with open(os.open(note, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            said = orjson.loads(file.read(MAX_NOTE_BYTES))
        run = Run(int(said["at_ms"]), bool(said["is_good"]), str(said["detail"])[:MAX_DETAIL])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return run
