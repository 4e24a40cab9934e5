"""HTTP as bytes, for requests that no client library would send."""

import http.client
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Response:
    """An answer; `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


def exchange(
    address: str,
    pieces: Iterable[bytes],
    *,
    method: str = "GET",
    half_close: bool = False,
    timeout: float = 120,
) -> Response | None:
    """Sends the pieces and reads one answer; None when the server closes without one.

    `half_close`: nothing more will be sent, it says.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            # The server has heard enough; its answer may have come before.
            pass
        response = http.client.HTTPResponse(connection, method=method)
        try:
            response.begin()
            return Response(
                response.status,
                {name.lower(): value for name, value in response.getheaders()},
                response.read(),
            )
        except (http.client.RemoteDisconnected, ConnectionResetError):
            return None
        finally:
            response.close()


def request(
    method: str, path: str | bytes, body: bytes | None = None, headers: Iterable[tuple[str, str]] = ()
) -> bytes:
    """A request as bytes, with a length where there is a body and none is named."""
    names = {name.lower() for name, _ in headers}
    lines = [f"{name}: {value}" for name, value in headers]
    if "host" not in names:
        lines.append("Host: localhost")
    if body is not None and not names & {"content-length", "transfer-encoding"}:
        lines.append(f"Content-Length: {len(body)}")
    target = path if isinstance(path, bytes) else path.encode()
    head = b"".join(line.encode("latin-1") + b"\r\n" for line in lines)
    return method.encode() + b" " + target + b" HTTP/1.1\r\n" + head + b"\r\n" + (body or b"")
