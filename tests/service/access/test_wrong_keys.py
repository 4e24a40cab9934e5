"""Who guesses keys is slowed down, at no cost to those who have one, and no credential is in the log."""

import base64
import contextlib
import json
import re
import socket
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import requests
import socketio

from tests.contract.raw_http import exchange, request
from tests.service.access.attacked import Attacked, Provider, fresh_address, make_attacked, raw_rest
from tests.service.access.world import make_key
from tests.support.service import Serve

MOST_MORE_BYTES = 32 * 1024 * 1024
"""How much larger the service may become by wrong keys: what is remembered of addresses has a bound."""


@pytest.fixture
def guessed(tmp_path: Path) -> Iterator[Attacked]:
    """A service of a test's own, whose wrong keys nobody else counts."""
    made = make_attacked(partial(Serve, tmp_path), tmp_path)
    yield made
    if made.world.service.process.poll() is None:
        made.world.service.kill()


def resident_bytes(service: Serve) -> int:
    """The memory that the service has."""
    return _status_bytes(service, "VmRSS")


def peak_bytes(service: Serve) -> int:
    """The most memory that the service has had."""
    return _status_bytes(service, "VmHWM")


def _status_bytes(service: Serve, name: str) -> int:
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    found = re.search(rf"{name}:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


class Connection:
    """HTTP/1.1 on one connection, kept alive: a fast client."""

    def __init__(self, attacked: Attacked) -> None:
        self._path = f"/api/messaging/sessions/{attacked.world.session_id}"
        host, _, port = attacked.world.service.rest.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=60)
        self._file = self._socket.makefile("rb")

    def ask(self, key: str, address: str) -> tuple[int, dict[str, str], dict[str, object]]:
        """The status, headers and body of the answer to a request with a key from an address."""
        head = (("X-API-KEY", key), ("X-Forwarded-For", address))
        self._socket.sendall(request("GET", self._path, None, head))
        status = int(self._file.readline().split()[1])
        headers = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, json.loads(self._file.read(int(headers["content-length"])))

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_wrong_keys_are_limited_and_right_ones_pass(guessed: Attacked, count: int) -> None:
    service, right = guessed.world.service, guessed.world.keys["user"]
    connection, found = Connection(guessed), Counter[int]()
    connection.ask(right, "10.1.1.1")
    before = resident_bytes(service)
    guesses = []
    for number in range(count):
        guesses.append(make_key("user") if number % 2 else right[:-1] + chr(33 + number % 90))
        if guesses[-1] == right:
            continue
        status, headers, body = connection.ask(guesses[-1], "10.1.1.1")
        found[status] += 1
        if status == 429:
            assert body["code"] == "RATE_LIMITED"
            assert 1 <= int(headers["retry-after"]) <= 60
            assert headers["ratelimit-policy"] == '"wrong-credentials";q=10;w=60'
        if number % 20 == 0:
            # From the same address.
            assert connection.ask(right, "10.1.1.1")[0] == 200
    # One more each six seconds.
    assert 10 <= found[401] <= 10 + count / 20
    assert found[429] >= count * 0.8
    assert {*found} == {401, 429}
    # Another address has its own ten.
    assert connection.ask(make_key("user"), "10.1.1.2")[0] == 401
    assert resident_bytes(service) - before < MOST_MORE_BYTES
    connection.close()
    log = service.log()
    assert not [guess for guess in {right, *guesses} if guess in log]


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_wrong_keys_from_everywhere_take_no_memory(guessed: Attacked, count: int) -> None:
    connection = Connection(guessed)
    connection.ask(guessed.world.keys["user"], "10.1.1.1")
    before = resident_bytes(guessed.world.service)
    for number in range(count):
        status, _, _ = connection.ask("x" * 60, f"2001:db8:{number // 5000:x}:{number % 5000:x}::1")
        assert status == 401
    assert resident_bytes(guessed.world.service) - before < MOST_MORE_BYTES
    # A network of IPv6 is one address.
    found = [connection.ask("x" * 60, f"2001:db8:ffff:1::{number:x}")[0] for number in range(12)]
    assert found == [401] * 10 + [429] * 2
    connection.close()


def test_wrong_keys_over_grpc_are_limited(guessed: Attacked) -> None:
    found = Counter(guessed.grpc_outcome(("x-api-key", make_key("user"))) for _ in range(100))
    assert found["UNAUTHENTICATED"] + found["RATE_LIMITED"] == 100
    assert 10 <= found["UNAUTHENTICATED"] <= 15
    assert guessed.grpc_outcome(*guessed.world.metadata("user")) == ""
    # A token that is wrong counts as a key, one that has expired or is missing does not.
    assert guessed.grpc_outcome(("authorization", f"Bearer {Provider().token(0)}")) == "RATE_LIMITED"
    assert guessed.grpc_outcome(("authorization", "Bearer est_x.y")) == "RATE_LIMITED"
    assert guessed.grpc_outcome(*guessed.world.metadata("expired")) == "CREDENTIAL_EXPIRED"
    assert guessed.grpc_outcome() == "UNAUTHENTICATED"


def test_a_socket_with_one_wrong_key_too_many_is_refused(guessed: Attacked) -> None:
    url, found = f"http://{guessed.world.service.rest}", []
    for _ in range(13):
        client = socketio.Client(reconnection=False)
        client.on("connect_error", lambda told: found.append(told["data"]["code"]))
        with pytest.raises(socketio.exceptions.ConnectionError):
            client.connect(url, auth={"apiKey": make_key("user")}, transports=["websocket"], wait_timeout=10)
        client.disconnect()
    assert (found[0], found[-1]) == ("UNAUTHENTICATED", "RATE_LIMITED")
    # A right one connects.
    right = socketio.Client(reconnection=False)
    right.connect(url, auth={"apiKey": guessed.world.keys["user"]}, transports=["websocket"], wait_timeout=10)
    assert right.call("join", {"roomId": guessed.world.session_id}, timeout=10) == {"success": True}
    right.disconnect()


def test_no_credential_is_in_the_log(guessed: Attacked) -> None:
    world, service, session_id = guessed.world, guessed.world.service, guessed.world.session_id
    expired = guessed.provider.token(guessed.now_s, exp=1)
    secrets = {
        **world.keys,
        **world.tokens,
        "jwt": guessed.token(),
        "expired jwt": expired,
        "forged jwt": Provider().token(guessed.now_s),
        "wrong": make_key("user"),
        "no key": "hunter2-hunter2-hunter2",
        "bad token": world.tokens["token"][:-2] + "xx",
    }
    proxys = base64.b64encode(b"proxy:s3cret-of-the-proxy").decode()
    base = f"http://{service.rest}/api/messaging/sessions"
    for secret in secrets.values():
        # Each from an address of its own: what is one too many is not looked at.
        for headers in ({"X-API-KEY": secret}, {"Authorization": f"Bearer {secret}"}):
            headers["X-Forwarded-For"] = fresh_address()
            requests.get(f"{base}/{session_id}", headers=headers, timeout=20)
            requests.get(f"{base}/no-such-id", headers=headers, timeout=20)
            # Refused, unreadable, unknown: what is refused is logged.
            requests.post(f"{base}/{session_id}/messages", data="{", headers=headers, timeout=20)
            requests.get(f"http://{service.rest}/no/such/path", headers=headers, timeout=20)
        url = f"{base}/{session_id}/events?access_token={secret}"
        address = {"X-Forwarded-For": fresh_address()}
        with requests.get(url, headers=address, stream=True, timeout=20) as stream:
            assert stream.status_code in (200, 401, 404)
        for path in (f"/{session_id}", f"/{session_id}/events", "/nowhere", ""):
            raw_rest(service, f"{path}?access_token={secret}&after=x")
        for bad in (f"X_API_KEY: {secret}", f"X-API-KEY: {secret}\r\n folded", f"X-API-KEY: {secret}\0"):
            exchange(service.rest, [f"GET / HTTP/1.1\r\nHost: localhost\r\n{bad}\r\n\r\n".encode()])
        for metadata in (("x-api-key", secret), ("authorization", f"Bearer {secret}"), ("x-other", secret)):
            guessed.grpc_outcome(metadata)
        for auth in ({"apiKey": secret}, {"token": secret}):
            connect_socket(service, auth, session_id)
    guessed.rest(("Authorization", f"Basic {proxys}"), ("X-API-KEY", world.keys["user"]))
    assert service.stop() == 0
    log = service.log()
    # It is a log in which a credential would be found: all that was refused is there.
    for code in ("CREDENTIAL_EXPIRED", "UNAUTHENTICATED", "PATH_NOT_FOUND"):
        assert code in log, code
    parts = {**secrets, "proxy": proxys, "mac": world.tokens["token"].rpartition(".")[2]}
    parts["signature"] = secrets["jwt"].rpartition(".")[2]
    # A part of one is enough: texts are cut in the log.
    found = [(name, secret[8:32]) for name, secret in parts.items() if secret[8:32] in log]
    assert found == []


def connect_socket(service: Serve, auth: dict[str, str], session_id: str) -> None:
    """Connects a socket with a credential in its handshake, and joins a session where it may."""
    client = socketio.Client(reconnection=False)
    # A bad one is refused.
    with contextlib.suppress(socketio.exceptions.ConnectionError):
        client.connect(
            f"http://{service.rest}",
            headers={"X-Forwarded-For": fresh_address()},
            auth=auth,
            transports=["websocket"],
            wait_timeout=10,
        )
        client.call("join", {"roomId": session_id}, timeout=10)
    client.disconnect()
