"""Certificates for tests, made by the command openssl: an authority, and what it has signed."""

import socket
import ssl
import subprocess
from pathlib import Path


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)


class Authority:
    """An authority, whose certificate is `ca`."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.ca, self._key = directory / f"{name}.pem", directory / f"{name}.key"
        self._count = 0
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", 2, "-subj", f"/CN={name}", "-keyout", self._key, "-out", self.ca),
        )

    def sign(self, names: str = "DNS:localhost,IP:127.0.0.1") -> tuple[Path, Path]:
        """Makes a certificate with these alternative names; returns its file and that of its key."""
        self._count += 1
        stem = self._directory / f"signed{self._count}"
        chain, key, wish, extra = (stem.with_suffix(end) for end in (".pem", ".key", ".csr", ".ext"))
        extra.write_text(f"subjectAltName={names}\n")
        _openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", f"/CN=signed{self._count}", "-keyout", key, "-out", wish),
        )
        _openssl(
            *("x509", "-req", "-in", wish, "-CA", self.ca, "-CAkey", self._key, "-days", 2),
            *("-set_serial", self._count, "-extfile", extra, "-out", chain),
        )
        return chain, key


class Installed:
    """The files of a server's certificate, which are replaced as a whole, one after the other."""

    def __init__(self, directory: Path, signed: tuple[Path, Path]) -> None:
        self.chain, self.key = directory / "server.pem", directory / "server.key"
        self.install(signed)

    def install(self, signed: tuple[Path, Path]) -> None:
        for source, target in zip(signed, (self.chain, self.key), strict=True):
            new = target.with_suffix(".new")
            new.write_bytes(source.read_bytes())
            new.replace(target)

    def settings(self, side: str) -> dict[str, str]:
        """The settings that name them, for GRPC or REST."""
        return {f"{side}_TLS_CERTIFICATE": str(self.chain), f"{side}_TLS_KEY": str(self.key)}


def s_client(address: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Shakes hands by `openssl s_client`."""
    return subprocess.run(
        ["openssl", "s_client", "-connect", address, *map(str, arguments)],
        input="",
        capture_output=True,
        text=True,
        # What HTTP/2 says behind the handshake is no text.
        errors="replace",
        timeout=30,
        check=False,
    )


def shown_certificate(address: str) -> bytes:
    """The certificate that a server shows to a new connection; empty where it shows none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    host, _, port = address.rpartition(":")
    try:
        with (
            socket.create_connection((host, int(port)), timeout=30) as plain,
            context.wrap_socket(plain) as secured,
        ):
            return secured.getpeercert(binary_form=True) or b""
    except OSError:
        return b""
