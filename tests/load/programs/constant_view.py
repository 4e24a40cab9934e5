"""A constant view of stock Flask on the host that a checkout's facade has: run by the Python of that checkout.

Prints where it listens.
"""

import socket

import flask
import uvloop

from rest_facade import main

stock = flask.Flask("stock")


@stock.get("/")
def constant() -> dict[str, str]:
    return {"hello": "world"}


def serve() -> None:
    # The host is what is measured: all of the facade but its own app.
    main.create_app = lambda _backend: stock
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    nowhere = "127.0.0.1:1"
    ready = f"listening at {address}"
    uvloop.run(main.serve(nowhere, listener, lambda: print(ready, flush=True), max_requests=768, grace_seconds=1))


if __name__ == "__main__":
    serve()
