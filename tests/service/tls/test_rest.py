"""REST over TLS: versions, large bodies, slow readers, streams, WebSockets, and the end of a service."""

import asyncio
import socket
import ssl
import time

import pytest
import requests
import socketio

from tests.service.tls.certificates import Authority, Installed, s_client, shown_certificate
from tests.support.service import USER, Serve, Start
from tests.support.waiting import PATIENCE_SECONDS, until


@pytest.fixture
def secured(start: Start, installed: Installed, authority: Authority) -> Serve:
    service = start(**installed.settings("REST"), TEST_CLOCK="1")
    service.http.verify = str(authority.ca)
    service.url = f"https://{service.rest}/api/messaging/sessions"
    return service


def connect(service: Serve, authority: Authority) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(authority.ca))
    host, port = service.rest.split(":")
    return context.wrap_socket(
        socket.create_connection((host, int(port)), PATIENCE_SECONDS), server_hostname=host
    )


def test_tls_has_versions_1_2_and_1_3_alone(secured: Serve) -> None:
    for version in ("-tls1_2", "-tls1_3"):
        assert s_client(secured.rest, version).returncode == 0
    assert s_client(secured.rest, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0").returncode != 0
    with pytest.raises(requests.ConnectionError):
        secured.http.get(secured.url.replace("https:", "http:"), timeout=10)


def test_requests_streams_and_large_bodies_go_over_tls(secured: Serve) -> None:
    session = secured.create()["sessionId"]
    sent = secured.http.post(
        f"{secured.url}/{session}/messages",
        json={"content": "x", "attachments": [{"data": "y" * 1_900_000}], "transport": "http"},
        timeout=30,
    )
    assert sent.status_code in (200, 201), sent.text[:200]
    read = secured.http.get(f"{secured.url}/{session}/messages", timeout=30)
    assert len(read.content) > 1_900_000
    streamed = secured.http.post(
        f"{secured.url}/{session}/messages", json={"content": "x", "transport": "sse"}, timeout=30
    )
    assert "event:" in streamed.text


def test_a_slow_reader_gets_everything(secured: Serve, authority: Authority) -> None:
    session = secured.create()["sessionId"]
    for _ in range(3):
        body = {"content": "x", "attachments": [{"data": "y" * 1_900_000}]}
        assert secured.http.post(f"{secured.url}/{session}/messages", json=body, timeout=30).ok
    whole = secured.http.get(f"{secured.url}/{session}/messages", timeout=30).content
    with connect(secured, authority) as client:
        path = f"/api/messaging/sessions/{session}/messages"
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        # Longer than the server's buffers last.
        time.sleep(1.5)
        received = b""
        while part := client.recv(65_536):
            received += part
    assert len(received.partition(b"\r\n\r\n")[2]) >= len(whole)
    # Other connections are served all along.
    assert secured.http.get(f"{secured.url}/{session}", timeout=10).ok


def test_a_silent_connection_does_not_keep_others_out(secured: Serve) -> None:
    host, port = secured.rest.split(":")
    with socket.create_connection((host, int(port)), PATIENCE_SECONDS) as silent:
        assert secured.create()
        # The bound on handshakes is 10 s.
        began_s = time.monotonic()
        assert silent.recv(1) == b""
        assert 5 < time.monotonic() - began_s < 20


def test_a_websocket_goes_over_tls(secured: Serve, authority: Authority) -> None:
    async def talk() -> object:
        client = socketio.AsyncClient(ssl_verify=False)
        got: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        client.on("messageBroadcast", lambda data: got.done() or got.set_result(data))
        await client.connect(f"https://{secured.rest}", transports=["websocket"])
        try:
            session = (await asyncio.to_thread(secured.create))["sessionId"]
            joined = asyncio.Event()
            client.on("channel_joined", lambda _: joined.set())
            await client.emit("join", {"roomId": session, "channelId": session, "entityId": USER})
            await asyncio.wait_for(joined.wait(), PATIENCE_SECONDS)
            await asyncio.to_thread(
                secured.http.post, f"{secured.url}/{session}/messages", json={"content": "hi"}, timeout=30
            )
            return await asyncio.wait_for(got, PATIENCE_SECONDS)
        finally:
            await client.disconnect()

    assert asyncio.run(talk())


def test_a_replaced_certificate_is_shown(secured: Serve, installed: Installed, authority: Authority) -> None:
    before = shown_certificate(secured.rest)
    held = secured.create()["sessionId"]
    installed.key.write_text("broken")
    until(lambda: shown_certificate(secured.rest) and "cannot be used" in secured.log(), "the warning")
    assert shown_certificate(secured.rest) == before
    installed.install(authority.sign())
    until(lambda: shown_certificate(secured.rest) not in (b"", before), "the new certificate")
    # The connection from before goes on.
    assert secured.http.get(f"{secured.url}/{held}", timeout=10).ok


def test_idle_connections_do_not_hold_up_the_end(secured: Serve, authority: Authority) -> None:
    session = secured.create()["sessionId"]
    with connect(secured, authority) as idle:
        idle.sendall(f"GET /api/messaging/sessions/{session} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert idle.recv(20).startswith(b"HTTP/1.1 200")
        assert secured.stop() == 0
