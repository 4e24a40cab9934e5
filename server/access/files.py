"""A file of credentials that is read again whenever it changes."""

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog

from server.access.errors import AccessError

T = TypeVar("T")

MAX_FILE_BYTES: Final = 16 * 1024 * 1024
"""More than a hundred thousand keys."""

_Stamp = tuple[int, int, int, int]

log = structlog.get_logger()


class WatchedFile(Generic[T]):
    """A file's content, `value`, as a function reads it. A file that went bad leaves the last good content.

    `value` is replaced as a whole, so that one thread may read it while another reloads.
    """

    value: T

    def __init__(
        self,
        variable: str,
        path: Path,
        parse: Callable[[bytes], T],
        *,
        is_secret: Callable[[T], bool] = lambda _: True,
    ) -> None:
        """Reads the file. `variable` names the setting; `parse` raises ValueError, saying what is wrong
        where, and `is_secret` says whether others should not read the content.

        :raises AccessError: the file cannot be read, is wrong, or may be written by others
        """
        self._variable = variable
        self._path = path
        self._parse = parse
        self._is_secret = is_secret
        self._stamp: _Stamp | None = None
        self._digest = b""
        self._fault = ""
        self._trouble = ""
        self._is_exposed = False
        self._load()

    def reload_if_changed(self) -> bool:
        """Reads the file again if it is another one by its times, size or inode. True: `value` is new.

        Blocking. Logs one line where the new content cannot be used; `value` stays then.
        """
        try:
            if _stamp_of(os.stat(self._path)) == self._stamp:
                return False
            is_new = self._load()
        except OSError as error:
            self._stamp = None
            return self._complain(f"{self._name}: it cannot be read: {error.strerror}")
        except AccessError as error:
            return self._complain(str(error))
        if self._trouble:
            self._trouble = ""
            log.info("a file of credentials can be used again", setting=self._variable, file=str(self._path))
        return is_new

    def _complain(self, trouble: str) -> bool:
        """Logs what is wrong, once."""
        if trouble != self._trouble:
            self._trouble = trouble
            log.warning("a changed file of credentials cannot be used, its last content stays", cause=trouble)
        return False

    def _load(self) -> bool:
        """Reads the file. True if its content is another."""
        try:
            status, content = _read(self._path)
        except OSError as error:
            self._stamp = None
            raise AccessError(f"{self._name}: it cannot be read: {error.strerror}") from error
        if fault := _find_fault(status, content):
            self._digest, self._stamp = b"", _stamp_of(status)
            raise AccessError(f"{self._name}: {fault}")
        digest = hashlib.sha256(content).digest()
        is_new = digest != self._digest
        # What was new is read once more: a writer may be at it, and a clock tick hides its next write.
        self._digest, self._stamp = digest, None if is_new else _stamp_of(status)
        if is_new:
            try:
                self._fault = ""
                self.value = self._parse(content)
            except ValueError as error:
                self._fault = f"{self._name}: {error}"
            except RecursionError:
                self._fault = f"{self._name}: it is nested too deeply"
        if self._fault:
            raise AccessError(self._fault)
        self._warn_of_readers(status)
        return is_new

    def _warn_of_readers(self, status: os.stat_result) -> None:
        """Logs that others may read a secret, once."""
        others = status.st_mode & (stat.S_IRGRP | stat.S_IROTH) and self._is_secret(self.value)
        if others and not self._is_exposed:
            log.warning(
                "others than its owner may read a file of credentials",
                setting=self._variable,
                file=str(self._path),
            )
        self._is_exposed = bool(others)

    @property
    def trouble(self) -> str:
        """Why the file cannot be used as it is now; empty where it can."""
        return self._trouble

    @property
    def _name(self) -> str:
        return f"{self._variable} {self._path}"


def _stamp_of(status: os.stat_result) -> _Stamp:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _read(path: Path) -> tuple[os.stat_result, bytes]:
    """A file's status and content, the latter up to a byte more than it may have. Raises OSError."""
    # A pipe without a writer must not hold up the start.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        return status, file.read(MAX_FILE_BYTES + 1) if stat.S_ISREG(status.st_mode) else b""


def _find_fault(status: os.stat_result, content: bytes) -> str:
    """What is wrong with a file, whatever it says; '' nothing."""
    if not stat.S_ISREG(status.st_mode):
        return "it is no file"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "others than its owner may write it: chmod go-w"
    if len(content) > MAX_FILE_BYTES:
        return f"it has more than {MAX_FILE_BYTES} bytes"
    return ""
