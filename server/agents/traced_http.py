"""HTTP to agents with a span around each request, whose place in the trace goes with it."""

from collections.abc import AsyncIterator

import httpx2

from server.agents.allowed import PORTS
from server.telemetry.traces import AgentRequestSpan, Traces


class TracedTransport(httpx2.AsyncBaseTransport):
    """Traces the requests of another transport."""

    def __init__(self, transport: httpx2.AsyncBaseTransport, traces: Traces) -> None:
        self._transport = transport
        self._traces = traces

    async def aclose(self) -> None:
        """Closes the other one."""
        await self._transport.aclose()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        # A query may hold a secret; who is called, and where, does not.
        shown = str(url.copy_with(query=None, fragment=None, username=None, password=None))
        span = self._traces.start_agent_request(
            request.method, shown, url.host, url.port or PORTS[url.scheme]
        )
        for name, value in span.headers:
            request.headers[name] = value
        try:
            response = await self._transport.handle_async_request(request)
        except BaseException as error:
            span.end(type(error).__name__)
            raise
        span.note_status(response.status_code)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        return httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=_TracedStream(response.stream, span),
            extensions=response.extensions,
        )


class _TracedStream(httpx2.AsyncByteStream):
    """A response's body, with which the span of its request ends."""

    def __init__(self, stream: httpx2.AsyncByteStream, span: AgentRequestSpan) -> None:
        self._stream = stream
        self._span = span

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._stream:
                yield part
        except GeneratorExit:
            # Its reader has what it wants.
            raise
        except BaseException as error:
            self._span.end(type(error).__name__)
            raise

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._span.end()
