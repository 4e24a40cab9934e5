"""A constant view of stock Flask on the host that a checkout's facade has: run by the Python of that
checkout.

Prints where it listens.
"""

import asyncio
import signal
import socket
from functools import partial

import flask
import uvloop

from rest_facade import main

stock = flask.Flask("stock")


@stock.get("/")
def constant() -> dict[str, str]:
    return {"hello": "world"}


def serve() -> None:
    # The host is what is measured: all of the facade but its own app.
    main.create_app = lambda *_, **__: stock
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    nowhere = "127.0.0.1:1"
    ready = f"listening at {address}"
    if hasattr(main, "Facade"):
        uvloop.run(_run(listener, nowhere, ready))
    else:
        # A checkout from before the facade was a class.
        uvloop.run(
            main.serve(nowhere, listener, lambda: print(ready, flush=True), max_requests=768, grace_seconds=1)
        )


async def _run(listener: socket.socket, nowhere: str, ready: str) -> None:
    from rest_facade.upstream.backend import Backend, dial

    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    facade = main.Facade(Backend(partial(dial, nowhere), 30, 120), listener, max_requests=768)
    await facade.start()
    print(ready, flush=True)
    await stopped.wait()
    await facade.stop(1)


if __name__ == "__main__":
    serve()
