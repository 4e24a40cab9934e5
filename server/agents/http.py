"""HTTP to agents: a client that goes only where it may, reads no more than it should, and follows no
redirect.

A name is resolved here, its addresses are checked, and the connection is made to the very address that was
checked: a name that leads elsewhere by then changes nothing (no time of check, time of use).
"""

import asyncio
import ipaddress
import json
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from typing import Any, Final, NoReturn
from urllib.parse import quote, urlsplit

import httpx2
import orjson

from server.agents.allowed import PORTS, Endpoint, canonical_host, literal, read_host_rules
from server.agents.blocking import BlockingCalls
from server.agents.kinds import NoReplyError
from server.domain.agent_text import join_halves

CONNECT_SECONDS: Final = 10.0
MAX_LOOKUPS: Final = 64
MAX_LOOKUPS_OF_A_DOMAIN: Final = 4
"""How many names may be looked up at a time: in all, and of those within one registered domain.

An agent has one host, and a host one look-up. So a name server that hangs takes up few of the threads,
however many agents are there.
"""
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
_GLOBAL_UNICAST: Final = ipaddress.ip_network("2000::/3")
"""All of IPv6 that is in use out in the world. The rest is local, or reserved."""
_ISATAP: Final = (0x5EFE, 0x200_5EFE)
"""The third quarter of an address of ISATAP; the fourth is its IPv4 address."""

SPECIAL_NETWORKS: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        # The registry of special-purpose IPv4 addresses (IANA), and multicast.
        *(
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
        ),
        *(
            "192.0.2.0/24",
            "192.31.196.0/24",
            "192.52.193.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "192.175.48.0/24",
        ),
        *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        # Of IPv6, what is within 2000::/3. 6to4 is looked into instead.
        *("2001::/23", "2001:db8::/32", "2620:4f:8000::/48", "3fff::/20"),
        # Azure's platform, whose address is an ordinary one. Other clouds' metadata are within the networks
        # above.
        "168.63.129.16/32",
    )
)
"""Where no agent may be, beside what Python takes for not global: that depends on its version."""


class AddressRefusedError(httpx2.TransportError):
    """The host is, or resolves to, an address where no agent may be; the text says so without naming the
    address.
    """


class ResponseRefusedError(httpx2.TransportError):
    """The response is larger than it may be, or packed."""


class NoAddressError(httpx2.TransportError):
    """The host's name does not resolve now."""


def is_public(address: str) -> bool:
    """Whether an IP address is out in the world: for no special purpose, also not one wrapped up in an IPv6
    address.
    """
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if parsed in _NAT64 or int(parsed) >> 32 & 0xFFFFFFFF in _ISATAP:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner and not is_public(str(inner)):
            return False
        if parsed.ipv4_mapped or parsed in _NAT64 or parsed.sixtofour:
            return True
        if parsed not in _GLOBAL_UNICAST:
            return False
    return (
        parsed.is_global
        and not parsed.is_multicast
        and not any(parsed in network for network in SPECIAL_NETWORKS)
    )


def retry_after_s(headers: httpx2.Headers, now_ms: int) -> float:
    """How long a response's Retry-After wants to be left alone, in seconds: 0 without one, at most
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


def error_words(body: str) -> str:
    """What the body of an error says: its message, where it is JSON that has one as most APIs do, or all of
    it.
    """
    with suppress(ValueError):
        found = read_json(body)
        for name in ("error", "message", "detail"):
            if isinstance(found, dict) and found.get(name):
                return error_text(found[name], body)
    return body


def error_text(error: object, body: str) -> str:
    """The message of an error, which may be the error itself; the whole body where there is none."""
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) and message else body


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
        host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
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
    """Which hosts agents may be on: those in the world, and those that the setting
    AGENT_ALLOWED_HOSTS names.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        """`allowed`: the entries of AGENT_ALLOWED_HOSTS. Raises ValueError."""
        self._rules = read_host_rules(allowed)
        self._own_ports: set[int] = set()
        self._lookups: BlockingCalls[list[str]] = BlockingCalls(
            "resolver", most=MAX_LOOKUPS, most_of_a_group=MAX_LOOKUPS_OF_A_DOMAIN
        )

    def add_own_port(self, port: int) -> None:
        """Closes a port of this service to agents on hosts that are allowed without a port."""
        self._own_ports.add(port)

    def list_open(self) -> list[str]:
        """The hosts that are allowed with every port."""
        return [rule.host for rule in self._rules if rule.port is None]

    def is_allowed(self, endpoint: Endpoint) -> bool:
        """Whether the setting names an endpoint: it is not judged by its addresses."""
        matching = [rule for rule in self._rules if rule.matches(endpoint)]
        return any(rule.port is not None or endpoint.port not in self._own_ports for rule in matching)

    def check(self, endpoint: Endpoint) -> None:
        """Raises AddressRefusedError for an endpoint that is refused whatever its name resolves to."""
        if self.is_allowed(endpoint):
            return
        with suppress(ValueError):
            if not is_public(endpoint.host):
                raise AddressRefusedError(_REFUSED)
        if endpoint.host.rpartition(".")[2] == "localhost":
            raise AddressRefusedError(_REFUSED)

    async def addresses(self, endpoint: Endpoint) -> list[str]:
        """The addresses of an endpoint, all of them checked. Raises AddressRefusedError, NoAddressError.

        They are looked up anew each time. Whoever asks while a look-up of the name is under way gets the
        result of that one.
        """
        self.check(endpoint)
        host = endpoint.host
        if literal(host):
            return [host]
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                found = await self._lookups.run(_domain(host), host, lambda: self._resolve(host))
        except TimeoutError:
            raise NoAddressError("the name of the agent's host did not resolve in time") from None
        except (OSError, UnicodeError) as error:
            raise NoAddressError("the name of the agent's host does not resolve") from error
        if not self.is_allowed(endpoint) and not all(map(is_public, found)):
            raise AddressRefusedError(_REFUSED)
        return found

    @staticmethod
    def _resolve(host: str) -> list[str]:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(info[4][0]) for info in infos))


def _domain(host: str) -> str:
    """The part of a name that somebody has registered, most likely: names below it have the
    same name server.
    """
    labels = host.split(".")
    # As in example.co.uk.
    count = 3 if len(labels[-1]) == 2 and len(labels) > 2 and len(labels[-2]) <= 3 else 2
    return ".".join(labels[-count:])


class _Transport(httpx2.AsyncBaseTransport):
    """Connects to checked addresses only, and bounds the response."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._connecting: asyncio.Task[httpx2.AsyncHTTPTransport] | None = None

    async def _open(self) -> httpx2.AsyncHTTPTransport:
        """Makes what connects, once and in a thread: it reads all certificates, a twelfth of a start."""
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(asyncio.to_thread(_make_transport))
        return await asyncio.shield(self._connecting)

    async def aclose(self) -> None:
        """Closes what connects, if it was made."""
        if self._connecting:
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


def _make_transport() -> httpx2.AsyncHTTPTransport:
    # A connection for each delivery: pools go by address, and one address may have many names.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx2.AsyncHTTPTransport(limits=limits)


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
