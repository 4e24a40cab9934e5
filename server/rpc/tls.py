"""The port of gRPC: by TCP, with or without TLS, or by a Unix socket."""

import errno
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import grpc
import structlog

from server.addresses import join_address, split_address, unix_path
from server.certificates import CertificateFiles

OWNER_ONLY: Final = 0o177
"""The mask with which a Unix socket gets the mode 0600."""

CONNECT_SECONDS: Final = 1.0
"""How long a live server may take to accept a connection on its Unix socket."""

_NAMES: Final = "x509_subject_alternative_name"

log = structlog.get_logger()


def open_port(server: grpc.aio.Server, address: str, certificate: CertificateFiles | None) -> int:
    """Listens on HOST:PORT or unix:/PATH, with TLS where there is a certificate.

    Returns the port, 0 for a Unix socket. Raises OSError, or RuntimeError where gRPC gives no reason.
    """
    if path := unix_path(address):
        _open_socket(server, Path(path))
        return 0
    host, port = split_address(address)
    # Tried first, because gRPC does not say why an address cannot be had.
    socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    if certificate is None:
        return server.add_insecure_port(join_address(host, port))
    return server.add_secure_port(join_address(host, port), make_credentials(certificate))


def make_credentials(files: CertificateFiles) -> grpc.ServerCredentials:
    """The credentials of a server whose certificate may be replaced while it runs.

    Clients need a certificate where there are authorities for them: gRPC for Python cannot just ask for it.
    """

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        # gRPC calls this at the begin of each handshake, in a thread of its own.
        try:
            return _configuration(files) if files.reload() else None
        except Exception:
            # gRPC would write it to standard error, and turn the client away.
            log.exception("the certificate could not be looked at")
            return None

    return grpc.dynamic_ssl_server_credentials(
        _configuration(files),
        fetch,  # type: ignore[arg-type] # None is documented: no change
        require_client_authentication=bool(files.current.client_ca),
    )


def certificate_names(context: Any) -> tuple[str, ...]:
    """The alternative names (DNS, URI, address, email) of the certificate that a call's client has shown.

    No names where it has shown none. gRPC has verified it. `context` is that of gRPC, or of a call within the
    process.
    """
    if not hasattr(context, "auth_context"):
        return ()
    found: Mapping[str, list[bytes]] = context.auth_context()
    return tuple(name.decode("utf-8", "replace") for name in found.get(_NAMES, ()))


def _configuration(files: CertificateFiles) -> grpc.ServerCertificateConfiguration:
    chain, key, client_ca = files.current
    return grpc.ssl_server_certificate_configuration([(key, chain)], client_ca or None)


def _open_socket(server: grpc.aio.Server, path: Path) -> None:
    """Listens on a Unix socket that only its owner may use. gRPC removes a file that is in the way."""
    _refuse_taken(path)
    # gRPC binds and listens at once: a change of the mode would come too late.
    mask = os.umask(OWNER_ONLY)
    try:
        server.add_insecure_port(f"unix:{path}")
    finally:
        os.umask(mask)


def _refuse_taken(path: Path) -> None:
    """Raises OSError where a file is no socket, or the socket of a server that lives."""
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise
        return
    if not is_socket:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(CONNECT_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
