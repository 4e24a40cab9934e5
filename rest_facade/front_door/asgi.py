"""Serves a request by an ASGI app instead of the WSGI app."""

from typing import TYPE_CHECKING, Final

from eliza.sessions.errors import forget_frames
from rest_facade.front_door import canned
from rest_facade.front_door.connections import CLIENT
from rest_facade.shapes import errors
from rest_facade.shapes.asgi import App, Message
from rest_facade.shapes.credentials import ADDRESS

if TYPE_CHECKING:
    from rest_facade.front_door.exchange import Exchange

TOO_LARGE: Final = "rest_facade.too_large"
"""The key in a scope's state that says whether the body is larger than allowed, and so was not read."""


async def serve_asgi(app: App, exchange: "Exchange") -> None:
    """Runs an ASGI app for a request whose body is complete.

    The app does not learn that its client has gone; its answer is then dropped.
    """
    status, lines, parts = 0, b"", bytearray()

    async def receive() -> Message:
        return {"type": "http.request", "body": bytes(exchange.body), "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, lines
        if message["type"] == "http.response.start":
            status = message["status"]
            lines = b"".join(b"%b: %b\r\n" % (name.lower(), value) for name, value in message["headers"])
            return
        parts.extend(message["body"])
        if not message.get("more_body") and not exchange.is_gone:
            length = b"" if b"content-length:" in lines else b"content-length: %d\r\n" % len(parts)
            exchange.write_whole(status, lines + length, bytes(parts))

    environ = exchange.connection.environ
    scope: Message = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.0" if exchange.is_old else "1.1",
        "method": exchange.method,
        "scheme": environ["wsgi.url_scheme"],
        "path": exchange.path,
        "raw_path": exchange.raw_path,
        "query_string": exchange.query,
        "root_path": "",
        "headers": exchange.headers,
        "client": (environ["REMOTE_ADDR"], int(environ["REMOTE_PORT"])),
        "server": (environ["SERVER_NAME"], int(environ["SERVER_PORT"])),
        "state": {
            CLIENT: exchange.connection.counted_client(),
            ADDRESS: exchange.address,
            TOO_LARGE: exchange.is_too_large,
        },
    }
    try:
        await app(scope, receive, send)
    except Exception as error:  # noqa: BLE001 - the client hears an id, the log has the cause
        fault = errors.unforeseen(error)
        forget_frames(error)
        if not exchange.is_started and not exchange.is_gone:
            exchange.answer(canned.refusal_of(fault))
