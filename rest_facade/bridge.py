"""Runs a WSGI app inside an ASGI server: synchronous views in a greenlet on the event loop's own thread, which may await anything.

A request that waits holds no thread, and there is no time limit here: a view may stream for as long as its client listens.
"""

import asyncio
import io
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import unquote_to_bytes

import greenback

from eliza.sessions.v1.errors import forget_frames

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

TOO_LARGE: Final = "rest_facade.too_large"
"""The key of the environ under which the app finds the limit in bytes that the request's body exceeds; such a body is not read."""

RELEASE: Final = "rest_facade.release"
"""The key of the environ, and of the scope's state, under which is what a view calls when from now on it only waits for somebody else."""

_DRAIN_SECONDS = 5


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete."""


class Bridge:
    """An ASGI app that hands every HTTP request to a WSGI app.

    Views, and the iterables that they return, may call `greenback.await_`. When the client goes away, what the view awaits is cancelled.
    """

    def __init__(self, app: "WSGIApplication", lifespan: AbstractAsyncContextManager[object], max_body_bytes: int) -> None:
        """`lifespan` is entered on the loop before the first request and left after the last one."""
        self._app = app
        self._lifespan = lifespan
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serves one scope, as ASGI 3 wants it."""
        if scope["type"] == "http":
            with suppress(ClientGoneError):
                await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            raise ValueError(f"cannot serve {scope['type']}")

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        async with self._lifespan:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, scope: Message, receive: Receive, send: Send) -> None:
        environ = _environ(scope)
        body = await self._body(environ, receive)
        if body is None:
            environ[TOO_LARGE] = self._max_body_bytes
            await self._run(environ, send, [(b"connection", b"close")])
            await _drain(receive)
        else:
            environ["CONTENT_LENGTH"] = str(len(body))
            environ["wsgi.input"] = io.BytesIO(body)
            watcher = asyncio.create_task(_watch(receive, asyncio.current_task()))
            try:
                # Nothing is done for a client that has gone by now.
                await asyncio.sleep(0)
                await self._run(environ, send, [])
            except asyncio.CancelledError as error:
                if watcher.done():
                    raise ClientGoneError from error
                raise
            finally:
                watcher.cancel()
        # Only now: once the response is complete, the server reports a disconnect, which must not cancel what closes the iterable.
        await send({"type": "http.response.body"})

    async def _body(self, environ: dict[str, Any], receive: Receive) -> bytes | None:
        """The whole body; None when it is over the limit, by what it says or by what it is."""
        if int(environ.get("CONTENT_LENGTH", 0)) > self._max_body_bytes:
            return None
        return await read_body(receive, self._max_body_bytes)

    async def _run(self, environ: dict[str, Any], send: Send, extra_headers: Headers) -> None:
        """Runs the app in a greenlet. What that raises would be kept by the frames it came through, and with it what is being sent."""
        error = await greenback.with_portal_run_sync(self._outcome, environ, send, extra_headers)
        try:
            if error:
                raise error
        finally:
            del error

    def _outcome(self, environ: dict[str, Any], send: Send, extra_headers: Headers) -> BaseException | None:
        """What running the app raises, without its frames."""
        try:
            self._respond(environ, send, extra_headers)
        except BaseException as error:  # noqa: BLE001 - it is raised by who waits
            forget_frames(error)
            return error
        return None

    def _respond(self, environ: dict[str, Any], send: Send, extra_headers: Headers) -> None:
        """Runs the app and sends what it gives, each chunk at once; all but the message that ends the response."""
        start: Message = {}

        def start_response(status: str, headers: list[tuple[str, str]], _exc_info: object = None, /) -> Callable[[bytes], object]:
            encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
            start.update(type="http.response.start", status=int(status[:3]), headers=encoded + extra_headers)
            return _refuse_write

        chunks = self._app(environ, start_response)
        try:
            # Flask has called start_response by now. Headers do not wait for the first chunk, so that a client sees its stream open.
            greenback.await_(send(start))
            for chunk in chunks:
                if chunk:
                    greenback.await_(send({"type": "http.response.body", "body": chunk, "more_body": True}))
                # Not kept while the next one is made, or waited for.
                del chunk
        finally:
            if hasattr(chunks, "close"):
                chunks.close()


def _environ(scope: Message) -> dict[str, Any]:
    """The WSGI environ of an ASGI scope, without the body."""
    client, server = scope["client"] or ("", 0), scope["server"] or ("", 0)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        # WSGI wants the path's bytes, whatever they are, as latin-1; the scope's own `path` has already lost those that are not UTF-8.
        "PATH_INFO": unquote_to_bytes(scope["raw_path"]).decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": io.BytesIO(),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        RELEASE: scope["state"].get(RELEASE),
    }
    for name, value in scope["headers"]:
        key = "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
        text = value.decode("latin-1")
        environ[key] = f"{environ[key]},{text}" if key in environ else text
    for key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if f"HTTP_{key}" in environ:
            environ[key] = environ.pop(f"HTTP_{key}")
    return environ


async def read_body(receive: Receive, max_bytes: int) -> bytes | None:
    """The whole body of a request; None when it is over the limit. Raises ClientGoneError."""
    message = await _more(receive)
    if not message["more_body"]:
        body: bytes = message["body"]
        return body if len(body) <= max_bytes else None
    parts = bytearray(message["body"])
    while message["more_body"] and len(parts) <= max_bytes:
        message = await _more(receive)
        parts += message["body"]
    return bytes(parts) if len(parts) <= max_bytes else None


async def _more(receive: Receive) -> Message:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    return message


async def _watch(receive: Receive, task: asyncio.Task[None] | None) -> None:
    """Cancels the task when the client goes away. The body has been read, so nothing else can come."""
    await receive()
    if task is not None:
        task.cancel()


async def _drain(receive: Receive) -> None:
    """Reads on without keeping anything: a connection closed on unread bytes is reset, and the client may never see the answer."""
    with suppress(TimeoutError, ClientGoneError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while (await _more(receive))["more_body"]:
                pass


def _refuse_write(_data: bytes) -> None:
    raise NotImplementedError("write() is not offered: return an iterable")
