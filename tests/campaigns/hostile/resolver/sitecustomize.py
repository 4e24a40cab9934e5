"""On a service's PYTHONPATH: names below `hangs.test` have a name server that does not answer."""

import socket
import threading

_HANGS_SECONDS = 60
_look_up = socket.getaddrinfo


def getaddrinfo(host: object, *arguments: object, **options: object) -> object:
    if isinstance(host, str) and host.endswith(".hangs.test"):
        threading.Event().wait(_HANGS_SECONDS)
    return _look_up(host, *arguments, **options)  # type: ignore[arg-type, call-overload]


socket.getaddrinfo = getaddrinfo  # type: ignore[assignment]
