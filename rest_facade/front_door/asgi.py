"""ASGI 3, for what is no WSGI app: its types, and a request of ours as an ASGI app sees it."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from eliza.sessions.errors import forget_frames
from rest_facade.front_door import canned
from rest_facade.front_door.connections import CLIENT
from rest_facade.shapes import errors

if TYPE_CHECKING:
    from rest_facade.front_door.exchange import Exchange

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

TOO_LARGE: Final = "rest_facade.too_large"
"""The key of a scope's state under which is whether the body has more bytes than it may have; such a body is
not read.
"""


async def serve_asgi(app: App, exchange: "Exchange") -> None:
    """Has an ASGI app answer a request whose body is there.

    It is not told when its client goes; what it sends then goes nowhere.
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
        "scheme": "http",
        "path": exchange.path,
        "raw_path": exchange.raw_path,
        "query_string": exchange.query,
        "root_path": "",
        "headers": exchange.headers,
        "client": (environ["REMOTE_ADDR"], int(environ["REMOTE_PORT"])),
        "server": (environ["SERVER_NAME"], int(environ["SERVER_PORT"])),
        "state": {CLIENT: exchange.connection.counted_client(), TOO_LARGE: exchange.is_too_large},
    }
    try:
        await app(scope, receive, send)
    except Exception as error:  # noqa: BLE001 - the client hears an id, the log has the cause
        fault = errors.unforeseen(error)
        forget_frames(error)
        if not exchange.is_started and not exchange.is_gone:
            exchange.answer(canned.refusal_of(fault))
