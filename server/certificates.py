"""A certificate and its key in PEM files that may be replaced while they are used."""

import os
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import structlog

CHECK_SECONDS: Final = 1.0
"""How often the files are looked at, at most."""

log = structlog.get_logger()


class CertificateError(Exception):
    """A certificate cannot be used. The text says which file, and why; it has nothing of the key."""


class Certificate(NamedTuple):
    """What the files hold, as PEM. `client_ca` is empty where clients need no certificate."""

    chain: bytes
    key: bytes
    client_ca: bytes = b""


class CertificateFiles:
    """The files of one certificate. They are read again when they change, by whoever begins a handshake."""

    def __init__(self, chain: str, key: str, client_ca: str = "") -> None:
        """Raises CertificateError where they cannot be used."""
        self._paths = [Path(path) for path in (chain, key, client_ca) if path]
        self._seen = self._look()
        self._checked_s = time.monotonic()
        self.current = self._read()

    def reload(self) -> bool:
        """Reads files that have changed, at most once a second. Returns whether `current` is a new one.

        Files that cannot be used are logged once, and the one before stays.
        """
        now_s = time.monotonic()
        if now_s - self._checked_s < CHECK_SECONDS:
            return False
        self._checked_s = now_s
        seen = self._look()
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            found = self._read()
        except CertificateError as error:
            log.warning("a changed certificate cannot be used: the one before stays", error=str(error))
            return False
        if found == self.current:
            return False
        self.current = found
        log.info("a changed certificate is used from now on", file=str(self._paths[0]))
        return True

    def make_context(self) -> ssl.SSLContext:
        """Makes a server's context of the files as they are. Raises CertificateError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        chain, key, *client_ca = self._paths
        try:
            # Without a password, a key that is encrypted would be asked for at the terminal.
            context.load_cert_chain(chain, key, password="")
            for path in client_ca:
                context.load_verify_locations(path)
        except ssl.SSLError as error:
            why = (error.reason or "the files hold no PEM").replace("_", " ").lower()
            raise CertificateError(f"{chain} and {key} cannot be used: {why}") from error
        except (OSError, ValueError) as error:
            raise CertificateError(f"{chain} and {key} cannot be used: {error}") from error
        return context

    def _read(self) -> Certificate:
        """Reads the files, and checks that they can be used."""
        before = self._read_bytes()
        self.make_context()
        if before != self._read_bytes():
            # They were replaced in between: what was checked is not what was read.
            self._seen = ()
            raise CertificateError(f"{self._paths[0]} was being replaced while it was read")
        return before

    def _read_bytes(self) -> Certificate:
        found = []
        for path in self._paths:
            try:
                found.append(path.read_bytes())
            except OSError as error:
                raise CertificateError(f"{path} cannot be read: {error.strerror}") from error
        return Certificate(*found)

    def _look(self) -> tuple[tuple[int, ...], ...]:
        """What tells a changed file from the same one, without reading it; nothing for one that is away."""
        return tuple(map(_stamp, self._paths))


def open_certificate(
    chain: str | None, key: str | None, client_ca: str | None = None
) -> CertificateFiles | None:
    """The certificate that settings name; None where they name none. Raises CertificateError."""
    return CertificateFiles(chain, key, client_ca or "") if chain and key else None


def make_reloading_context(files: CertificateFiles, protocols: Sequence[str]) -> ssl.SSLContext:
    """Makes a context whose handshakes show the certificate of the files as they are by then.

    `protocols` are offered by ALPN. Raises CertificateError where the files cannot be used now.
    """

    def make() -> ssl.SSLContext:
        context = files.make_context()
        context.set_alpn_protocols(protocols)
        return context

    context = latest = make()

    def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        # OpenSSL calls this in each handshake, also where the client names no server.
        nonlocal latest
        if files.reload():
            try:
                latest = make()
            except CertificateError as error:
                log.warning("a changed certificate cannot be used: the one before stays", error=str(error))
        connection.context = latest

    context.sni_callback = choose
    return context


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
