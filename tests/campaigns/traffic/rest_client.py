"""The client over REST, and over server-sent events."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import orjson

from tests.campaigns.traffic.clients import CALL_SECONDS, AgainError, RefusedError, Sent
from tests.support.service import ECHO, USER


class Response(NamedTuple):
    """An answer over HTTP; the names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)


class RestClient:
    """HTTP/1.1 over one connection, which is opened when it is needed and kept."""

    kind = "REST"

    def __init__(self, address: str) -> None:
        self._address = address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, method: str, path: str, body: object = None, **headers: str) -> Response:
        """Makes a request of the sessions API.

        Raises AgainError; RefusedError for a status of 400 or more.
        """
        try:
            async with asyncio.timeout(CALL_SECONDS):
                reader = await self._begin(method, path, body, headers)
                status, heads = await _head(reader)
                content = await reader.readexactly(int(heads.get("content-length", 0)))
                if heads.get("connection") == "close":
                    await self.close()
        except TimeoutError:
            await self.close()
            raise AgainError("late") from None
        except (OSError, asyncio.IncompleteReadError) as error:
            await self.close()
            raise AgainError("dropped", repr(error)) from None
        if status >= 400:
            code = orjson.loads(content)["code"]
            if status in (503, 504):
                assert status == 504 or int(heads["retry-after"]) >= 1
                raise AgainError(code)
            raise RefusedError(code, content.decode())
        return Response(status, heads, content)

    async def create(
        self, request_id: str, mark: str, minutes: float | None = None, agent_id: str = ECHO
    ) -> str:
        """Creates a session with this mark in its metadata; returns its id."""
        body = {
            "agentId": agent_id,
            "userId": USER,
            "metadata": {"mark": mark},
            "timeoutConfig": {"timeoutMinutes": minutes},
        }
        return (await self.request("POST", "", body, **{"Idempotency-Key": request_id})).json()["sessionId"]

    async def send(self, session_id: str, request_id: str, content: str, *, wait: bool = False) -> Sent:
        body = {"content": content, "transport": "http" if wait else "websocket"}
        answer = await self.request(
            "POST", f"/{session_id}/messages", body, **{"Idempotency-Key": request_id}
        )
        sent = answer.json()
        return Sent(
            sent["id"],
            "idempotency-replayed" in answer.headers,
            sent["agentResponse"]["id"] if wait else None,
        )

    async def renew(self, session_id: str, etag: str) -> tuple[int, str]:
        """Renews a session in this state; returns the sequence of its entry, and the new state's tag."""
        return _state(await self.request("POST", f"/{session_id}/renew", **{"If-Match": etag}))

    async def patch(self, session_id: str, etag: str, minutes: int) -> tuple[int, str]:
        """Changes the timeout of a session in this state."""
        return _state(
            await self.request(
                "PATCH", f"/{session_id}/timeout", {"timeoutMinutes": minutes}, **{"If-Match": etag}
            )
        )

    async def heartbeat(self, session_id: str) -> None:
        """Keeps a session alive."""
        await self.request("POST", f"/{session_id}/heartbeat")

    async def delete(self, session_id: str) -> None:
        """Deletes a session."""
        await self.request("DELETE", f"/{session_id}")

    async def watch(self, session_id: str, after: int) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """The events of a session behind a sequence, as an EventSource reads them.

        Raises AgainError, RefusedError.
        """
        try:
            reader = await self._begin("GET", f"/{session_id}/events", None, {"Last-Event-ID": str(after)})
            status, heads = await _head(reader)
            if status != 200:
                code = orjson.loads(await reader.readexactly(int(heads["content-length"])))["code"]
                raise AgainError(code) if status in (503, 504) else RefusedError(code, "")
            text = b""
            while size := int(await reader.readuntil(b"\r\n"), 16):
                text += (await reader.readexactly(size + 2))[:-2]
                *events, text = text.split(b"\n\n")
                for event in events:
                    fields = dict(
                        line.split(": ", 1) for line in event.decode().split("\n") if not line.startswith(":")
                    )
                    # Chunks have no sequence, and are not kept.
                    if "id" in fields:
                        yield fields["event"], orjson.loads(fields["data"])
        except (OSError, asyncio.IncompleteReadError) as error:
            raise AgainError("dropped", repr(error)) from None
        finally:
            await self.close()

    async def close(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None

    async def _begin(
        self, method: str, path: str, body: object, headers: dict[str, str]
    ) -> asyncio.StreamReader:
        """Sends a request. Raises AgainError where there is no connection, OSError."""
        if self._streams is None:
            host, port = self._address.split(":")
            try:
                self._streams = await asyncio.open_connection(host, int(port))
            except OSError as error:
                raise AgainError("refused", repr(error)) from None
        reader, writer = self._streams
        data = b"" if body is None else orjson.dumps(body)
        lines = [
            f"{method} /api/messaging/sessions{path} HTTP/1.1",
            "Host: localhost",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        if data:
            lines += ["Content-Type: application/json"]
        writer.write("\r\n".join([*lines, f"Content-Length: {len(data)}", "", ""]).encode() + data)
        return reader


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """The status and the headers of an answer."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")
    return int(first.split(" ")[1]), {
        name.lower(): value for name, value in (line.split(": ", 1) for line in lines)
    }


def _state(answer: Response) -> tuple[int, str]:
    """The sequence and the tag of the state that an answer tells of: the tag begins with the sequence."""
    etag = answer.headers["etag"]
    return int(etag.strip('"').split("-")[0]), etag
