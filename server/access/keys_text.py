"""Changes the text of a keys file, and keeps what its operator has written besides."""

import fcntl
import json
import os
import re
import secrets
import tomllib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from server.access.keys import SHARES, Key

_TABLE: Final = re.compile(r"\s*\[")
_KEY_TABLE: Final = re.compile(r"""\s*\[\[\s*(keys|"keys"|'keys')\s*\]\]""")
_SPACE: Final = re.compile(r"\s*(#.*)?$")


def add_key(text: str, key: Key) -> str:
    """The text with one more key at its end. Raises ValueError where the text cannot be added to."""
    fields: dict[str, str] = {
        "id": _quote(key.id),
        "sha256": _quote(key.digest.hex()),
        "role": _quote(key.role),
        "tenant": _quote(key.tenant) if key.tenant else "",
        "user": _quote(key.user_id) if key.user_id else "",
        "agent": _quote(key.agent_id) if key.agent_id else "",
        "not_after": _instant(key.not_after_ms),
        "share": "" if key.share == SHARES.get(key.role, 1.0) else f"{key.share!r}",
        "certificate": _quote(key.certificate) if key.certificate else "",
    }
    table = "".join(f"{name} = {value}\n" for name, value in fields.items() if value)
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    added = f"{text}{gap}[[keys]]\n{table}"
    try:
        is_added = _tables(added)[:-1] == _tables(text)
    except tomllib.TOMLDecodeError:
        is_added = False
    if not is_added:
        raise ValueError("its keys do not each begin with [[keys]]: add the key by hand")
    return added


def remove_keys(text: str, indices: Collection[int]) -> str:
    """The text without the keys at these places, counted from 0. Comments outside of their tables stay.

    :raises ValueError: the text is written so that its tables cannot be told apart
    """
    lines = text.splitlines(keepends=True)
    starts = [number for number, line in enumerate(lines) if _TABLE.match(line)]
    keys = [number for number in starts if _KEY_TABLE.match(lines[number])]
    dropped: set[int] = set()
    for index in indices:
        if index >= len(keys):
            break
        end = next((start for start in starts if start > keys[index]), len(lines))
        # Comments behind a table's last field belong to what follows.
        while end > keys[index] and _SPACE.match(lines[end - 1]):
            end -= 1
        while end < len(lines) and not lines[end].strip():
            end += 1
        dropped |= set(range(keys[index], end))
    left = "".join(line for number, line in enumerate(lines) if number not in dropped)
    wanted = [table for number, table in enumerate(_tables(text)) if number not in indices]
    try:
        is_removed = _tables(left) == wanted
    except tomllib.TOMLDecodeError:
        is_removed = False
    if not is_removed:
        raise ValueError("its keys are not written one field a line: remove the key by hand")
    return left


@contextmanager
def lock_directory(path: Path) -> Iterator[None]:
    """Holds the lock on a file's directory, so that two commands do not undo each other's change."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file as a whole; a crash leaves the old one or the new one. Raises OSError.

    The file keeps its mode and its owner; a new one may be read by its owner only.
    """
    try:
        old = os.stat(path)
    except FileNotFoundError:
        old = None
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as file:
            if old is not None:
                if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(descriptor, old.st_uid, old.st_gid)
                os.fchmod(descriptor, old.st_mode & 0o777)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _tables(text: str) -> list[Any]:
    tables = tomllib.loads(text).get("keys", [])
    return tables if isinstance(tables, list) else []


def _quote(text: str) -> str:
    """A TOML string: a JSON one, but for a character that JSON may have as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _instant(not_after_ms: int | None) -> str:
    if not_after_ms is None:
        return ""
    seconds, ms = divmod(not_after_ms, 1000)
    instant = datetime.fromtimestamp(seconds, UTC).replace(microsecond=ms * 1000)
    return instant.isoformat().replace("+00:00", "Z")
