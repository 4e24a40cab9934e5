"""HTTP to agents: a client that goes only where it may, reads no more than it should, and follows no redirect.

A name is resolved here, its addresses are checked, and the connection is made to the very address that was checked: a name that leads
elsewhere by then changes nothing (no time of check, time of use).
"""

import asyncio
import ipaddress
import json
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from typing import Any, Final, NoReturn
from urllib.parse import quote, urlsplit

import httpx2
import orjson

from server.agents.kinds import NoReplyError
from server.domain.agent_text import join_halves

CONNECT_SECONDS: Final = 10.0
MAX_RESPONSE_BYTES: Final = 4 * 1024 * 1024
"""Room for the largest reply (2 MiB of attachments, 100,000 code points twice) and for what surrounds it."""
MAX_ERROR_BYTES: Final = 16 * 1024
"""How much of an error's body is read. Only its beginning is shown, and that to operators."""
ERROR_BODY_SECONDS: Final = 5.0
"""How long an error's body is waited for."""
MAX_DETAIL_CHARACTERS: Final = 500
"""How much of a provider's message is kept for operators."""
MAX_RETRY_AFTER_SECONDS: Final = 600.0

_TEMPORARY: Final = (408, 409, 421, 425, 429)
"""Client errors that may not come again: timeout, conflict, misdirected, too early, too many requests."""

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.ip_network("::/96")
_LOCAL: Final = [ipaddress.ip_network(network) for network in ("fec0::/10", "64:ff9b:1::/48", "::ffff:0:0:0/96")]
"""Site-local, local NAT64 and translated IPv4: Python counts them among the public ones."""


class AddressRefusedError(httpx2.TransportError):
    """The host is, or resolves to, an address where no agent may be; the text says so without naming the address."""


class ResponseRefusedError(httpx2.TransportError):
    """The response is larger than it may be, or packed."""


class NoAddressError(httpx2.TransportError):
    """The host's name does not resolve now."""


def is_public(address: str) -> bool:
    """Whether an IP address is out in the world: not private, loopback, link-local or the like, also not wrapped up in an IPv6 address."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        if any(parsed in network for network in _LOCAL):
            return False
        inner = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo and parsed.teredo[1])
        if parsed in _NAT64 or parsed in _COMPATIBLE:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner:
            parsed = inner
    return parsed.is_global and not parsed.is_multicast


def retry_after_s(headers: httpx2.Headers, now_ms: int) -> float:
    """How long a response's Retry-After wants to be left alone, in seconds: 0 without one, at most MAX_RETRY_AFTER_SECONDS."""
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


def read_json(text: str) -> Any:
    """The value of a JSON text, whose strings may hold halves of surrogate pairs. Raises ValueError."""
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(text)
    # orjson refuses lone halves, which JSON may escape.
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nests too deeply") from error


def read_clean_json(text: str) -> Any:
    """The value of a JSON text: surrogate halves are joined, a lone one is a U+FFFD. Raises ValueError."""
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(text)
    value = read_json(text)
    try:
        return orjson.loads(join_halves(json.dumps(value, ensure_ascii=False)))
    except RecursionError as error:
        raise ValueError("nests too deeply") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def read_events(response: httpx2.Response) -> httpx2.EventSource:
    """The events of a stream. They are UTF-8, with or without a byte order mark, whatever the headers say."""
    response.headers["Content-Type"] = "text/event-stream"
    response.encoding = "utf-8-sig"
    return httpx2.EventSource(response, MAX_RESPONSE_BYTES)


@contextmanager
def detailed(url: str, secret: str) -> Iterator[None]:
    """Makes the detail of a NoReplyError from within safe to keep, and puts host and port before it."""
    try:
        yield
    except NoReplyError as failure:
        failure.detail = detail(url, failure.detail, secret)
        raise


def detail(url: str, words: str, secret: str) -> str:
    """Host and port of the URL, and the first MAX_DETAIL_CHARACTERS of the words.

    The secret is replaced wherever it stands, with or without `whsec_`.
    What cannot be printed becomes a space.
    """
    place, words = (_printable(_without(secret, text)) for text in (_place(url), words))
    return f"{place}: {words[:MAX_DETAIL_CHARACTERS]}" if words else place


def cause(error: BaseException) -> str:
    """Why a connection failed, in the words of whoever noticed first: "Connection refused"; never empty."""
    words = ""
    found: BaseException | None = error
    while found is not None:
        match found:
            case ssl.SSLCertVerificationError():
                return f"the certificate is not valid: {found.verify_message}"
            case socket.gaierror() | ssl.SSLError():
                return found.strerror or str(found)
            case OSError(errno=int(number)):
                return os.strerror(number)
        # A timeout comes from a cancellation, which says nothing.
        words = (str(found) if isinstance(found, Exception) else "") or words
        # The library suppresses what it has mapped.
        found = found.__cause__ or found.__context__
    return words or type(error).__name__


def _place(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        return "an address that is none"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _without(secret: str, text: str) -> str:
    """The text with the secret replaced, also where a body or a URL has it escaped."""
    if not secret:
        return text
    bare = secret.removeprefix("whsec_")
    forms: list[str] = []
    for form in filter(None, (secret, bare)):
        # As it is, as JSON may escape it, and as a URL has it.
        forms += (form, form.replace("/", "\\/"), quote(form, safe=""))
    # In one go, so that no replacement is replaced again.
    return re.sub("|".join(map(re.escape, forms)), "[secret]", text)


def _printable(text: str) -> str:
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


class Hosts:
    """Which hosts agents may be on: those in the world, and those that the setting AGENT_ALLOWED_HOSTS names."""

    def __init__(self, allowed: Collection[str]) -> None:
        """`allowed`: names and addresses, as they stand in an agent's URL, that are not checked."""
        self._allowed = {host.lower().strip("[]") for host in allowed}
        # Of its own, because a name server that hangs must hold up nothing else.
        self._resolver = ThreadPoolExecutor(64, "resolver")

    def check(self, host: str) -> None:
        """Raises AddressRefusedError for a host that is refused whatever its name resolves to."""
        if host.lower().strip("[]") in self._allowed:
            return
        with suppress(ValueError):
            if not is_public(host.strip("[]")):
                raise AddressRefusedError(_REFUSED)
        if host.lower().rstrip(".").rpartition(".")[2] == "localhost":
            raise AddressRefusedError(_REFUSED)

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a host, all of them checked. Raises AddressRefusedError, NoAddressError."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                found = await asyncio.get_running_loop().run_in_executor(self._resolver, self._resolve, host, port)
        except TimeoutError:
            raise NoAddressError("the name of the agent's host did not resolve in time") from None
        except (OSError, UnicodeError) as error:
            raise NoAddressError("the name of the agent's host does not resolve") from error
        if host.lower() not in self._allowed and not all(map(is_public, found)):
            raise AddressRefusedError(_REFUSED)
        return found

    @staticmethod
    def _resolve(host: str, port: int) -> list[str]:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(info[4][0]) for info in infos))


class _Transport(httpx2.AsyncHTTPTransport):
    """Connects to checked addresses only, and bounds the response."""

    def __init__(self, hosts: Hosts) -> None:
        # A connection for each delivery: pools go by address, and one address may have many names.
        super().__init__(limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0))
        self._hosts = hosts

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        self._hosts.check(url.host)
        addresses = await self._hosts.addresses(url.host, url.port or {"http": 80, "https": 443}[url.scheme])
        # Certificates are checked against the name, not the address.
        extensions = {**request.extensions, "sni_hostname": url.host}
        for address in addresses:
            pinned = httpx2.Request(
                request.method, url.copy_with(host=address), headers=request.headers, stream=request.stream, extensions=extensions
            )
            try:
                response = await super().handle_async_request(pinned)
                break
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                if address == addresses[-1]:
                    raise
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        headers = response.headers
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
            response.status_code,
            headers=headers,
            stream=stream,
            extensions=response.extensions,
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
    """The beginning of an error's body, as far as it comes. It never fails: the status says what matters."""

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


def client(hosts: Hosts) -> httpx2.AsyncClient:
    """A client for agents. It has no timeout for an answer: the lease of the delivery has."""
    return httpx2.AsyncClient(
        transport=_Transport(hosts),
        # No proxy of the environment: it would resolve names on its own.
        trust_env=False,
        timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
        headers={"Accept-Encoding": "identity", "User-Agent": "eliza-sessions"},
    )


_REFUSED: Final = "is on a private, loopback or link-local address, which AGENT_ALLOWED_HOSTS does not allow"
