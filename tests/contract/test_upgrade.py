"""Offers to change to another protocol: but for a WebSocket's handshake they are ignored, and the request is
served all the same.
"""

import base64
import http.client
import io
import json
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tests.contract.drivers import PATIENCE_SECONDS
from tests.contract.raw_http import request
from tests.support.service import ECHO, USER, Serve

SESSIONS = "/api/messaging/sessions"
JSON = ("Content-Type", "application/json")
H2C = (("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAAP__"))
KEY = ("Sec-WebSocket-Key", base64.b64encode(bytes(16)).decode())
HANDSHAKE = (("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"), KEY)
OFFERS = {
    "h2c": H2C,
    "several headers": (
        ("Connection", "keep-alive"),
        ("Upgrade", "h2c"),
        ("Connection", "upgrade"),
        ("Upgrade", "TLS/1.0"),
    ),
    "websocket": (("Connection", "keep-alive, Upgrade"), ("Upgrade", "websocket")),
    "whole handshake": HANDSHAKE,
}
Split = Callable[[bytes, bytes], list[bytes]]
SPLITS: dict[str, Split] = {
    "one segment": lambda head, body: [head + body],
    "body later": lambda head, body: [head, body],
    "bytes": lambda head, body: [bytes([byte]) for byte in head + body],
}


class Wire:
    """A connection on which answers are read one by one."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def send(self, pieces: Sequence[bytes]) -> None:
        """Sends each piece in a segment of its own."""
        for piece in pieces:
            self._socket.sendall(piece)

    def read(self, method: str = "GET") -> tuple[int, bytes]:
        """The next answer: its status and its body."""
        response = http.client.HTTPResponse(_Unclosed(self._file), method=method)  # type: ignore[arg-type] # it makes a file, and nothing else
        response.begin()
        return response.status, response.read()

    def read_frame(self) -> tuple[int, bytes]:
        """The next frame of a WebSocket: its opcode and its content."""
        first, length = self._file.read(2)
        if length == 126:
            length = int.from_bytes(self._file.read(2), "big")
        return first & 0x0F, self._file.read(length)

    def is_closed(self) -> bool:
        """Whether nothing more comes, once the server has closed."""
        return self._file.read() == b""


class _Unclosed:
    """A socket whose file stays open behind an answer, with what has been read ahead."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file

    def makefile(self, _mode: str) -> Any:
        return _Kept(self._file)


class _Kept(io.BufferedIOBase):
    def __init__(self, file: io.BufferedReader) -> None:
        self.read, self.readline, self.readinto = file.read, file.readline, file.readinto  # type: ignore[method-assign]


@pytest.fixture
def service(rest_service: Serve) -> Serve:
    """REST is asked both ways."""
    return rest_service


@pytest.fixture
def wire(service: Serve) -> Iterator[Wire]:
    opened = Wire(service.rest)
    yield opened
    opened.close()


def head_and_body(
    method: str, path: str, body: bytes, headers: Sequence[tuple[str, str]], *, chunked: bool
) -> tuple[bytes, bytes]:
    """A request in two parts, its body with a length or in chunks of three bytes."""
    if not chunked:
        content = request(method, path, body, headers)
        return content[: len(content) - len(body)], body
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(part), part) for part in (body[at : at + 3] for at in range(0, len(body), 3))
    )
    head = request(method, path, b"", (*headers, ("Transfer-Encoding", "chunked")))
    return head, chunks + b"0\r\nContent-Type: text/plain\r\n\r\n"


def masked_frame(opcode: int, content: bytes) -> bytes:
    """A client's frame of a WebSocket with less than 126 bytes, under a mask of zeros."""
    return bytes([0x80 | opcode, 0x80 | len(content)]) + bytes(4) + content


def polling(path: str = "", sid: str = "") -> str:
    return f"/socket.io/{path}?EIO=4&transport=polling" + (f"&sid={sid}" if sid else "")


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("offer", OFFERS)
def test_a_request_with_an_offer_is_served_as_without(
    service: Serve, wire: Wire, offer: str, chunked: bool, split: str
) -> None:
    def ask(method: str, path: str, body: Any) -> tuple[int, Any]:
        parts = head_and_body(
            method, path, json.dumps(body).encode(), (JSON, *OFFERS[offer]), chunked=chunked
        )
        wire.send(SPLITS[split](*parts))
        status, content = wire.read()
        return status, json.loads(content)

    status, made = ask("POST", SESSIONS, {"agentId": ECHO, "userId": USER, "metadata": {"a": "é"}})
    assert (status, made["userId"], made["metadata"]) == (201, USER, {"a": "é"})
    session_id = made["sessionId"]
    status, changed = ask("PATCH", f"{SESSIONS}/{session_id}/timeout", {"timeoutMinutes": 33})
    assert (status, changed["timeoutConfig"]["timeoutMinutes"]) == (200, 33)
    status, sent = ask("POST", f"{SESSIONS}/{session_id}/messages", {"content": "Hello"})
    assert (status, sent["content"]) == (201, "Hello")
    # It is on the same connection that a request without an offer comes next.
    wire.send([request("GET", f"{SESSIONS}/{session_id}")])
    assert json.loads(wire.read()[1])["sessionId"] == session_id


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("offer", OFFERS)
def test_a_body_never_begins_a_request(service: Serve, wire: Wire, offer: str, split: str) -> None:
    session_id = service.create()["sessionId"]
    hidden = request("DELETE", f"{SESSIONS}/{session_id}")
    for method, path, expected in (
        ("POST", f"{SESSIONS}/{session_id}/heartbeat", 415),
        ("GET", f"{SESSIONS}/{session_id}", 200),
    ):
        for chunked in (False, True):
            wire.send(SPLITS[split](*head_and_body(method, path, hidden, OFFERS[offer], chunked=chunked)))
            assert wire.read()[0] == expected
    wire.send(
        [request("HEAD", f"{SESSIONS}/{session_id}", hidden, (*OFFERS[offer], ("Connection", "close")))]
    )
    assert wire.read("HEAD")[0] == 200
    assert wire.is_closed()
    assert service.http.get(f"{service.url}/{session_id}", timeout=PATIENCE_SECONDS).status_code == 200


@pytest.mark.parametrize("split", SPLITS)
def test_packets_of_a_polling_client_are_kept(wire: Wire, split: str) -> None:
    for offer in OFFERS.values():
        wire.send([request("GET", polling(), headers=H2C)])
        status, opened = wire.read()
        assert status == 200
        sid = json.loads(opened[1:])["sid"]
        for chunked in (False, True):
            wire.send(
                SPLITS[split](
                    *head_and_body(
                        "POST", polling(sid=sid), b"40" if chunked else b"3", offer, chunked=chunked
                    )
                )
            )
            assert wire.read() == (200, b"OK")
        heard = b""
        while b"connection_established" not in heard:
            wire.send([request("GET", polling(sid=sid), headers=H2C)])
            status, packets = wire.read()
            assert status == 200
            heard += packets


def test_requests_behind_one_with_an_offer_are_answered_in_order(service: Serve, wire: Wire) -> None:
    session_id = service.create()["sessionId"]
    path = f"{SESSIONS}/{session_id}"
    contents = [
        request("POST", f"{path}/messages", b'{"content": "one"}', (JSON, *H2C)),
        # A handshake behind requests that wait for their answers would overtake them.
        request("GET", f"{path}/messages?limit=1", headers=HANDSHAKE),
        request("GET", "/nothing", headers=H2C),
        request("POST", f"{path}/messages", b'{"content": "two"}', (JSON, *OFFERS["websocket"])),
        request("GET", path, headers=(*H2C, ("Connection", "close"))),
    ]
    wire.send([b"".join(contents)])
    assert [wire.read()[0] for _ in contents] == [201, 200, 404, 201, 200]
    assert wire.is_closed()


def test_connect_is_refused_and_nothing_behind_it_is_read(service: Serve) -> None:
    session_id = service.create()["sessionId"]
    hidden = request("DELETE", f"{SESSIONS}/{session_id}")
    for target in ("localhost:80", "/", "http://localhost/"):
        for pieces in ([request("CONNECT", target, hidden)], [request("CONNECT", target), hidden]):
            wire = Wire(service.rest)
            try:
                wire.send(pieces)
                status, content = wire.read()
                assert (status, json.loads(content)["code"]) == (400, "INVALID_REQUEST")
                assert wire.is_closed()
            except ConnectionResetError:
                # What was not read any more resets the connection.
                pass
            finally:
                wire.close()
    assert service.http.get(f"{service.url}/{session_id}", timeout=PATIENCE_SECONDS).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/ws",
        "/nothing/socket.io/",
        "/socket.iox",
        "/%ff",
        SESSIONS,
        f"{SESSIONS}/health",
        f"{SESSIONS}/$sid/events",
    ],
)
def test_a_handshake_on_any_other_path_is_not_found(wire: Wire, service: Serve, path: str) -> None:
    wire.send([request("GET", path.replace("$sid", service.create()["sessionId"]), headers=HANDSHAKE)])
    status, content = wire.read()
    body = json.loads(content)
    assert (status, body["code"]) == (404, "PATH_NOT_FOUND")
    assert body.keys() == {"error", "details", "code"}
    assert wire.is_closed()
    assert "handshake" not in service.log()


@pytest.mark.parametrize(
    "headers",
    [(), (("Content-Length", "0"),), (("Connection", "keep-alive"),), (("X-Y", "a"),)],
    ids=["alone", "no body", "another option", "another name"],
)
@pytest.mark.parametrize("path", ["/socket.io/", "/socket.io", "http://localhost/socket.io/"])
def test_a_handshake_opens_a_websocket(wire: Wire, path: str, headers: tuple[tuple[str, str], ...]) -> None:
    wire.send([request("GET", "/nothing", headers=H2C)])
    assert wire.read()[0] == 404
    wire.send([request("GET", f"{path}?EIO=4&transport=websocket", headers=(*HANDSHAKE, *headers))])
    assert wire.read()[0] == 101


@pytest.mark.parametrize("split", SPLITS)
def test_frames_that_come_with_a_handshake_are_answered_behind_it(wire: Wire, split: str) -> None:
    head = request("GET", "/socket.io/?EIO=4&transport=websocket", headers=HANDSHAKE)
    pings = [bytes([at]) * 100 for at in range(60)]
    # More than is parsed at a time.
    frames = b"".join(masked_frame(9, ping) for ping in pings) + masked_frame(1, b"40")
    wire.send(SPLITS[split](head, frames))
    assert wire.read()[0] == 101
    heard = [wire.read_frame()]
    while not heard[-1][1].startswith(b"42"):
        heard.append(wire.read_frame())
    assert [content for opcode, content in heard if opcode == 10] == pings
    texts = [content for opcode, content in heard if opcode == 1]
    assert [text[: text.index(b"{")] for text in texts[:2]] == [b"0", b"40"]
    assert b"connection_established" in texts[2]


def test_a_bad_frame_that_comes_with_a_handshake_is_refused_behind_it(wire: Wire) -> None:
    head = request("GET", "/socket.io/?EIO=4&transport=websocket", headers=HANDSHAKE)
    wire.send([head + b"\x83\x80" + bytes(4)])
    assert wire.read()[0] == 101
    heard = wire.read_frame()
    while heard[0] != 8:
        heard = wire.read_frame()
    assert heard[1][:2] == (1002).to_bytes(2, "big")
    assert wire.is_closed()


def test_frames_that_come_with_a_refused_handshake_are_not_read(service: Serve, wire: Wire) -> None:
    head = request("GET", f"{SESSIONS}/health", headers=HANDSHAKE)
    wire.send([head + masked_frame(1, b"40")])
    assert wire.read()[0] == 404
    assert wire.is_closed()
    assert "Traceback" not in service.log()


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "offer",
    [
        HANDSHAKE[:2],
        (("Upgrade", "websocket"), KEY),
        (*HANDSHAKE[:1], ("Upgrade", "websocket, h2c"), *HANDSHAKE[2:]),
    ],
    ids=str,
)
def test_what_is_no_handshake_opens_no_websocket(
    service: Serve, wire: Wire, offer: Sequence[tuple[str, str]], method: str
) -> None:
    wire.send([request(method, "/socket.io/?EIO=4&transport=websocket", headers=offer)])
    assert wire.read()[0] == 400
    wire.send([request("GET", f"{SESSIONS}/health", headers=(*offer, ("Connection", "close")))])
    assert wire.read()[0] == 200
    assert "Traceback" not in service.log()


def test_the_bound_on_heads_holds_for_those_with_an_offer(wire: Wire) -> None:
    wire.send([request("GET", f"{SESSIONS}/health", headers=(*H2C, ("X-Long", "x" * 200_000)))])
    status, content = wire.read()
    assert (status, json.loads(content)["code"]) == (400, "INVALID_REQUEST")
