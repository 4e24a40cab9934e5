"""The client over Socket.IO."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from tests.campaigns.traffic.clients import CALL_SECONDS, AgainError, RefusedError, Sent
from tests.support.service import USER


class SocketClient:
    """Socket.IO over a bare websocket, opened when it is needed and kept."""

    kind = "Socket.IO"

    def __init__(self, address: str) -> None:
        self._url = f"ws://{address}/socket.io/?EIO=4&transport=websocket"
        self._socket: ClientConnection | None = None

    async def send(self, session_id: str, request_id: str, content: str, *, wait: bool = False) -> Sent:
        payload = {
            "senderId": USER,
            "message": content,
            "roomId": session_id,
            "messageId": request_id,
            "requestId": request_id,
        }
        try:
            async with asyncio.timeout(CALL_SECONDS):
                socket = await self._opened()
                # Both dialects, in turns.
                envelope = (
                    ["message", {"type": 2, "payload": payload}] if len(content) % 2 else ["2", payload]
                )
                await socket.send("42" + json.dumps(envelope))
                async for name, answer in self._events(socket):
                    if name == "messageAck" and answer["clientMessageId"] == request_id:
                        return Sent(answer["messageId"])
                    if name == "messageError":
                        again = answer["code"] in ("UNAVAILABLE", "OVERLOADED", "DEADLINE_EXCEEDED")
                        raise (
                            AgainError(answer["code"])
                            if again
                            else RefusedError(answer["code"], answer["error"])
                        )
        except TimeoutError:
            await self.close()
            raise AgainError("late") from None
        except (OSError, WebSocketException) as error:
            await self.close()
            raise AgainError("dropped", repr(error)) from None
        await self.close()
        raise AgainError("dropped")

    async def watch(self, session_id: str, after: int) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """The events of a session behind a sequence. Raises AgainError, RefusedError."""
        try:
            socket = await self._opened()
            await socket.send("42" + json.dumps(["join", {"roomId": session_id, "after": after}]))
            async for name, event in self._events(socket):
                if name == "messageError":
                    raise (
                        AgainError(event["code"])
                        if event["code"] == "UNAVAILABLE"
                        else RefusedError(event["code"], event["error"])
                    )
                if "sequence" in event:
                    yield name, event
        except (OSError, WebSocketException) as error:
            raise AgainError("dropped", repr(error)) from None
        finally:
            await self.close()

    async def close(self) -> None:
        if self._socket:
            socket, self._socket = self._socket, None
            # Not waited for: the other side may be gone.
            socket.transport.abort()

    async def _opened(self) -> ClientConnection:
        if self._socket is None:
            try:
                self._socket = await connect(
                    self._url, compression=None, ping_interval=None, proxy=None, max_size=None
                )
                await self._socket.recv()
                await self._socket.send("40")
            except (OSError, WebSocketException) as error:
                await self.close()
                raise AgainError("refused", repr(error)) from None
        return self._socket

    @staticmethod
    async def _events(socket: ClientConnection) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        async for text in socket:
            if text == "2":
                await socket.send("3")
            elif str(text).startswith("42"):
                name, payload = orjson.loads(str(text)[2:])
                yield name, payload
