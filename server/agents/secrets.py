"""Secrets of agents: the registry says where one is (`env:NAME`, `file:/PATH`), and only what the setting AGENT_SECRETS names may be read.

Without that bound whoever can register an agent could have any file of this machine sent to an address of theirs.
"""

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

MAX_SECRET_BYTES: Final = 64 * 1024


class SecretError(Exception):
    """A secret cannot be had; the text says why, and never holds it."""


class Secrets:
    """Reads secrets, each time anew, so that one can be changed while the service runs."""

    def __init__(self, allowed: Sequence[str]) -> None:
        """`allowed`: patterns, as in a shell, of names of environment variables and of absolute paths."""
        self._allowed = allowed

    def read(self, reference: str) -> str:
        """The secret that a reference leads to, without white space around it. Raises SecretError."""
        kind, _, name = reference.partition(":")
        if os.path.normpath(name) != name or not any(fnmatchcase(name, pattern) for pattern in self._allowed):
            raise SecretError(f"names {name}, which AGENT_SECRETS does not allow")
        secret = self._file(name) if kind == "file" else os.environ.get(name, "")
        if not secret.strip():
            raise SecretError(f"names {name}, which is not set or empty")
        return secret.strip()

    @staticmethod
    def _file(name: str) -> str:
        try:
            with Path(name).open("rb") as file:
                return file.read(MAX_SECRET_BYTES).decode()
        except OSError as error:
            raise SecretError(f"names {name}, which cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise SecretError(f"names {name}, which is not text") from error
