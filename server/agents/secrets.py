"""Secrets of agents. The registry holds references (`env:NAME`, `file:/PATH`); AGENT_SECRETS allows them.

Without that bound, anybody who can register an agent could send any file of this machine to themselves.
"""

import asyncio
import os
import re
import stat
from collections.abc import Sequence
from functools import partial
from glob import escape
from typing import Final

from server.agents.allowed import Endpoint, SecretRule, matches_path, read_secret_rules, secret_entry
from server.agents.blocking import BlockingCalls

MAX_SECRET_BYTES: Final = 64 * 1024
READ_SECONDS: Final = 5.0
"""How long a file may take to be read."""
MAX_READS: Final = 32
MAX_READS_OF_A_RULE: Final = 4
"""How many files may be read at a time: in all, and of one set of rules, likely on one file system."""

_WILDCARD: Final = re.compile(r"[*?\[]")
_HIDDEN: Final = re.compile(r"/\.\.[^/]+(?=/)")
"""Directories of a Kubernetes volume. There `key` links to `..data/key`, `..data` to
`..2026_01_31_09_05_00.1`.
"""


class SecretError(Exception):
    """A secret cannot be had; the text says why, and never holds it."""


class SecretNotAllowedError(SecretError):
    """AGENT_SECRETS does not allow a secret for an agent.

    The text is the same whether there is such a secret or not.
    """

    def __init__(self, kind: str, name: str, endpoint: Endpoint | None) -> None:
        """`endpoint`: where the secret would be sent; None where it only signs."""
        sent = "" if endpoint is None else f" to be sent to {endpoint.host} port {endpoint.port}"
        entry = secret_entry(kind, name, endpoint)
        super().__init__(
            f"names {name}, which AGENT_SECRETS does not allow{sent}"
            + (f"; add {entry} to it" if entry else "")
        )


class Secrets:
    """Reads secrets anew each time, so that they can be changed while the service runs."""

    def __init__(self, allowed: Sequence[str]) -> None:
        """`allowed`: the entries of AGENT_SECRETS. Raises ValueError."""
        self._rules = read_secret_rules(allowed)
        self._reads: BlockingCalls[str] = BlockingCalls(
            "secret", most=MAX_READS, most_of_a_group=MAX_READS_OF_A_RULE
        )

    @property
    def open_reads(self) -> int:
        """How many files are being read, or wait for that."""
        return self._reads.open_count

    def check(self, reference: str, endpoint: Endpoint, *, is_sent: bool) -> None:
        """Raises SecretNotAllowedError for a secret that an agent at this endpoint may not have. Reads
        nothing.

        `is_sent`: the secret goes to the endpoint, which a rule must then name; otherwise it only signs.
        """
        self._patterns(reference, endpoint, is_sent=is_sent)

    async def read(self, reference: str, endpoint: Endpoint, *, is_sent: bool) -> str:
        """The secret that a reference leads to, without white space around it. Raises SecretError."""
        patterns = self._patterns(reference, endpoint, is_sent=is_sent)
        kind, _, name = reference.partition(":")
        if kind == "env":
            secret = os.environ.get(name, "")
        else:
            try:
                async with asyncio.timeout(READ_SECONDS):
                    secret = await self._reads.run(
                        patterns, (name, patterns), partial(_read_file, name, patterns)
                    )
            except _ElsewhereError:
                raise SecretNotAllowedError(kind, name, endpoint if is_sent else None) from None
            except TimeoutError:
                raise SecretError(f"names {name}, which cannot be read in time") from None
            except OSError as error:
                raise SecretError(f"names {name}, which cannot be read: {error.strerror}") from None
            except UnicodeDecodeError:
                raise SecretError(f"names {name}, which is not text") from None
        if not secret.strip():
            raise SecretError(f"names {name}, which is not set or empty")
        return secret.strip()

    def _patterns(self, reference: str, endpoint: Endpoint, *, is_sent: bool) -> tuple[str, ...]:
        """The patterns of the rules that allow a secret by its name. Raises SecretNotAllowedError."""
        kind, _, name = reference.partition(":")
        found = tuple(
            rule.pattern
            for rule in self._rules
            if rule.matches(kind, name) and _is_for(rule, endpoint, is_sent=is_sent)
        )
        if not found or os.path.normpath(name) != name:
            raise SecretNotAllowedError(kind, name, endpoint if is_sent else None)
        return found


class _ElsewhereError(Exception):
    """A path leads, by symbolic links, to a file that no pattern allows."""


def _is_for(rule: SecretRule, endpoint: Endpoint, *, is_sent: bool) -> bool:
    return not is_sent if rule.host is None else rule.host.matches(endpoint)


def _read_file(name: str, patterns: Sequence[str]) -> str:
    """The text of a regular file whose real path the patterns allow.

    Raises _ElsewhereError, OSError, UnicodeDecodeError.
    """
    real = os.path.realpath(name)
    shown = _HIDDEN.sub("", real)
    if not any(matches_path(shown, _real_pattern(pattern)) for pattern in patterns):
        raise _ElsewhereError
    # Opening a FIFO without a writer would wait.
    descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is no regular file")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_SECRET_BYTES).decode()
    finally:
        os.close(descriptor)


def _real_pattern(pattern: str) -> str:
    """Returns the pattern with links resolved before its first wildcard: /var/run is often a link to /run."""
    wild = _WILDCARD.search(pattern)
    if wild is None:
        return escape(_HIDDEN.sub("", os.path.realpath(pattern)))
    directory, _, start = pattern[: wild.start()].rpartition("/")
    real = escape(_HIDDEN.sub("", os.path.realpath(directory or "/"))).rstrip("/")
    return f"{real}/{start}{pattern[wild.start() :]}"
