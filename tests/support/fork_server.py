"""A process that has imported all commands of `eliza-sessions` and forks one whenever it is told to.

It is run as a script. Its standard input is a socket, on which each packet asks for a fork.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import struct
import sys
import threading
from collections.abc import Mapping
from typing import NoReturn

LARGEST_BYTES = 1 << 20
"""The most that a request may have."""
ALSO = (
    *("server.service", "server.telemetry.endpoint", "server.telemetry.metrics", "encodings.idna"),
    *("importlib.resources.readers", "uvicorn.lifespan.off", "uvicorn.protocols.http.httptools_impl"),
    *("uvicorn.protocols.http.auto", "uvicorn.protocols.websockets.auto"),
)
"""What commands import later than at their start."""


def fork_as_told(control: socket.socket, set_by_imports: Mapping[str, str]) -> list[str] | None:
    """Forks for each request, and tells who asked the process's id and at last its exit status.

    Returns in each fork its command line, and at the end None. Variables that imports have set are set in
    each fork, unless its request has others.
    """
    running: dict[int, tuple[int, int]] = {}
    with selectors.DefaultSelector() as waiting:
        waiting.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if key.fileobj is not control:
                    waiting.unregister(key.fd)
                    _tell_end(key.fd, *running.pop(key.fd))
                    continue
                packet, descriptors, _, _ = socket.recv_fds(control, LARGEST_BYTES, 4)
                if not packet:
                    for pid, _ in running.values():
                        os.kill(pid, signal.SIGKILL)
                    return None
                pid = os.fork()
                if not pid:
                    for pidfd, (_, teller) in running.items():
                        os.close(pidfd)
                        os.close(teller)
                    return _become(json.loads(packet), descriptors, set_by_imports)
                *streams, teller = descriptors
                for descriptor in streams:
                    os.close(descriptor)
                os.write(teller, struct.pack("i", pid))
                pidfd = os.pidfd_open(pid)
                running[pidfd] = pid, teller
                waiting.register(pidfd, selectors.EVENT_READ)


def _tell_end(pidfd: int, pid: int, teller: int) -> None:
    _, status = os.waitpid(pid, 0)
    # Who asked for it may not want to know any more.
    with contextlib.suppress(BrokenPipeError):
        os.write(teller, struct.pack("i", os.waitstatus_to_exitcode(status)))
    os.close(teller)
    os.close(pidfd)


def _become(request: dict, descriptors: list[int], set_by_imports: Mapping[str, str]) -> list[str]:
    """Makes this process what a new one would be."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    *streams, teller = descriptors
    os.close(teller)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update({**set_by_imports, **request["environment"]})
    return list(request["arguments"])


def _end(status: int) -> NoReturn:
    """Ends as Python does, but for taking all objects apart, which is a third of what a short run costs.

    The children of `multiprocessing` end so, too.
    """
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        # Python's own status of an output that cannot be written.
        status = 120
    os._exit(status)


def main() -> None:
    # Ctrl-C is for the tests; they end this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=os.dup(0))
    before = dict(os.environ)
    from server.cli import main as command

    for name in command.list_commands(None):
        command.get_command(None, name)
    for name in ALSO:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    set_by_imports = {name: value for name, value in os.environ.items() if before.get(name) != value}
    with control:
        arguments = fork_as_told(control, set_by_imports)
    if arguments is not None:
        sys.argv = ["eliza-sessions", *arguments]
        try:
            command(prog_name="eliza-sessions")
        except SystemExit as ended:
            # click ends every command so.
            if isinstance(ended.code, int):
                _end(ended.code)
            raise


if __name__ == "__main__":
    main()
