"""The REST facade as a child of `serve`: `python -P -m server.cli.worker CONTROL LISTENER`, two descriptors that it inherits.

Over CONTROL it gets the server's address and the settings as its parent has resolved them, and says `ready` or why not. The end of
that connection tells it that its parent is gone. It reads no setting from the environment or the command line.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys

import orjson

from server import logs
from server.cli.common import StartError, run_service
from server.settings import Settings


def main() -> None:
    """Serves until the parent says so or is gone. Where it cannot begin, it tells the parent why and ends with status 1."""
    # Ctrl-C reaches every process of the terminal's group; this one is ended by its parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control, listener = (socket.socket(fileno=int(number)) for number in sys.argv[1:])
    try:
        try:
            # Here, because a module that cannot be loaded is a reason to tell, too.
            from server.cli.rest import serve_facade
        except Exception as error:
            raise StartError(f"{type(error).__name__}: {error}") from error
        with control.makefile("rb") as given:
            server, _, values = given.readline().partition(b" ")
        settings = Settings.model_construct(**orjson.loads(values))
        logs.configure(settings.log_level, settings.log_format)

        async def serve() -> None:
            asyncio.get_running_loop().add_reader(control, _stop_without_parent, control)
            await serve_facade(settings, server.decode(), listener, lambda: _tell(control, "ready"))

        run_service(serve())
    except StartError as error:
        _tell(control, str(error))
        sys.exit(1)


def _stop_without_parent(control: socket.socket) -> None:
    if not control.recv(1):
        asyncio.get_running_loop().remove_reader(control)
        os.kill(os.getpid(), signal.SIGTERM)


def _tell(control: socket.socket, line: str) -> None:
    # A parent that is gone is heard of by the end of the connection.
    with contextlib.suppress(ConnectionError):
        control.sendall(f"{' '.join(line.split())}\n".encode())


if __name__ == "__main__":
    main()
