"""HTTP to agents: connects to allowed hosts only, bounds responses, follows no redirect."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Final

import httpx2

from server.agents.allowed import PORTS, Endpoint, canonical_host
from server.agents.hosts import CONNECT_SECONDS, Hosts
from server.agents.traced_http import TracedTransport
from server.telemetry.traces import NO_TRACES, Traces

MAX_RESPONSE_BYTES: Final = 4 * 1024 * 1024
"""Room for the largest reply (2 MiB of attachments, 100,000 code points twice) and its wrapping."""
MAX_ERROR_BYTES: Final = 16 * 1024
"""How much of an error's body is read. Only its beginning is shown, and that to operators."""
ERROR_BODY_SECONDS: Final = 5.0
"""How long an error's body is waited for."""
MAX_RETRY_AFTER_SECONDS: Final = 600.0
_TEMPORARY: Final = (408, 409, 421, 425, 429)
"""Client errors that may not come again: timeout, conflict, misdirected, too early, too many requests."""


class ResponseRefusedError(httpx2.TransportError):
    """The response is larger than it may be, or packed."""


def client(hosts: Hosts, traces: Traces = NO_TRACES) -> httpx2.AsyncClient:
    """A client for agents. It has no timeout for an answer: the lease of the delivery has."""
    transport = _Transport(hosts)
    return httpx2.AsyncClient(
        transport=TracedTransport(transport, traces) if traces.is_on else transport,
        # No proxy of the environment: it would resolve names on its own.
        trust_env=False,
        timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
        headers={"Accept-Encoding": "identity", "User-Agent": "eliza-sessions"},
    )


class _Transport(httpx2.AsyncBaseTransport):
    """Connects to checked addresses only, and bounds the response."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._opening: asyncio.Task[httpx2.AsyncHTTPTransport] | None = None

    async def _open(self) -> httpx2.AsyncHTTPTransport:
        """Makes the inner transport once, in a thread: it reads all certificates, a twelfth of a start."""
        if self._opening is None:
            self._opening = asyncio.ensure_future(asyncio.to_thread(_make_transport))
        return await asyncio.shield(self._opening)

    async def aclose(self) -> None:
        """Closes the inner transport, if it was made."""
        if self._opening:
            await (await self._open()).aclose()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        addresses = await self._hosts.addresses(
            Endpoint(canonical_host(url.raw_host.decode()), url.port or PORTS[url.scheme])
        )
        # Certificates are checked against the name, not the address.
        extensions = {**request.extensions, "sni_hostname": url.host}
        transport = await self._open()
        for address in addresses:
            pinned = httpx2.Request(
                request.method,
                url.copy_with(host=address),
                headers=request.headers,
                stream=request.stream,
                extensions=extensions,
            )
            try:
                response = await transport.handle_async_request(pinned)
                break
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                if address == addresses[-1]:
                    raise
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        headers = response.headers
        # One agent's cookies are nothing to another, and the client would keep them for ever.
        headers.pop("set-cookie", None)
        packed = headers.pop("content-encoding", "identity").lower() != "identity"
        stream: httpx2.AsyncByteStream
        if not 200 <= response.status_code < 300:
            stream = _Excerpt(response.stream, 0 if packed else MAX_ERROR_BYTES)
        elif packed:
            await response.aclose()
            raise ResponseRefusedError("the agent's answer is packed, which was not asked for")
        else:
            stream = _Bounded(response.stream)
        return httpx2.Response(
            response.status_code, headers=headers, stream=stream, extensions=response.extensions
        )


class _Bounded(httpx2.AsyncByteStream):
    """A stream of at most MAX_RESPONSE_BYTES."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MAX_RESPONSE_BYTES
        async for part in self._stream:
            left -= len(part)
            if left < 0:
                raise ResponseRefusedError(f"the agent's answer is larger than {MAX_RESPONSE_BYTES} bytes")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Excerpt(httpx2.AsyncByteStream):
    """The beginning of an error's body, as far as it comes. It never fails: the status matters more."""

    def __init__(self, stream: httpx2.AsyncByteStream, most_bytes: int) -> None:
        self._stream = stream
        self._most_bytes = most_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        start = b""
        with suppress(httpx2.TransportError, TimeoutError):
            async with asyncio.timeout(ERROR_BODY_SECONDS):
                parts = aiter(self._stream)
                while len(start) < self._most_bytes and (part := await anext(parts, b"")):
                    start += part
        yield start[: self._most_bytes]

    async def aclose(self) -> None:
        await self._stream.aclose()


def _make_transport() -> httpx2.AsyncHTTPTransport:
    # A connection for each delivery: pools go by address, and one address may have many names.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx2.AsyncHTTPTransport(limits=limits)


def retry_after_s(headers: httpx2.Headers, now_ms: int) -> float:
    """Returns the pause of a response's Retry-After in seconds: 0 without one, at most
    MAX_RETRY_AFTER_SECONDS.
    """
    value = headers.get("retry-after", "").strip()
    seconds = 0.0
    if value.isascii() and value.isdigit():
        seconds = float(value)
    else:
        with suppress(ValueError, OverflowError):
            seconds = parsedate_to_datetime(value).timestamp() - now_ms / 1000
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def is_temporary(status: int, headers: httpx2.Headers) -> bool:
    """Whether a response with this status, which is no success, is worth another attempt."""
    # RFC 9110, 15.5.14: a server that finds the content too large for now says when to come again.
    return status >= 500 or status in _TEMPORARY or (status == 413 and "retry-after" in headers)


def read_events(response: httpx2.Response) -> httpx2.EventSource:
    """The events of a stream. They are UTF-8, with or without a byte order mark, whatever the headers say."""
    response.headers["Content-Type"] = "text/event-stream"
    response.encoding = "utf-8-sig"
    return httpx2.EventSource(response, MAX_RESPONSE_BYTES)
