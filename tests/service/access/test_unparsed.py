"""A caller without a credential has nothing parsed: what it sends is refused for that, whatever it is."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import grpc
import pytest

from eliza.sessions.limits import MAX_BODY_BYTES
from eliza.sessions.v1 import message_service_pb2
from server.domain.access import RULES
from tests.contract.facade_alone import running
from tests.contract.fake_server import fake_server
from tests.contract.raw_http import Response, exchange, request
from tests.service.access.attacked import Attacked, code_of, make_attacked, raw_rest
from tests.service.access.test_wrong_keys import peak_bytes, resident_bytes
from tests.service.access.world import AGENT, ALICE, outcome_of
from tests.support.service import Serve

JSON = ("Content-Type", "application/json")
ROUTES = (
    *(("POST", ""), ("POST", "/{id}/messages"), ("POST", "/{id}/renew"), ("POST", "/{id}/heartbeat")),
    *(("PATCH", "/{id}/timeout"), ("POST", "/{id}/tokens")),
)
"""The routes with a body."""

STREAMS = ("WatchSessions", "Connect")
MOST_MORE_BYTES = 96 * 1024 * 1024
"""How much larger the service may become by many bodies at once, which are 200 MiB together and more."""


@contextmanager
def attacked_in(directory: Path) -> Iterator[Attacked]:
    """A service of a test's own, whose memory nobody else uses."""
    made = make_attacked(partial(Serve, directory), directory)
    yield made
    if made.world.service.process.poll() is None:
        made.world.service.kill()


@pytest.fixture
def flooded(tmp_path: Path) -> Iterator[Attacked]:
    with attacked_in(tmp_path) as made:
        yield made


@pytest.mark.parametrize("size", [1, 1000, 4 * 1024 * 1024], ids=["byte", "small", "large"])
def test_a_message_of_grpc_is_not_parsed(attacked: Attacked, size: int) -> None:
    channel = attacked.world.service.channel
    for name in RULES:
        if name.endswith("GetServiceStatus"):
            continue
        path = f"/eliza.sessions.v1.{name}"
        # A field of the type 7, which there is none of: it is no message.
        raw = b"\xff" * size
        for metadata, wanted in (
            ((), ("UNAUTHENTICATED",)),
            ((("x-api-key", "wrong-wrong-wrong-wrong"),), ("UNAUTHENTICATED", "RATE_LIMITED")),
            (attacked.world.metadata("expired"), ("CREDENTIAL_EXPIRED",)),
        ):
            if name.endswith(STREAMS):
                call = partial(next, channel.stream_stream(path)(iter([raw]), metadata=metadata, timeout=30))
            else:
                call = partial(channel.unary_unary(path), raw, metadata=metadata, timeout=30)
            with pytest.raises(grpc.RpcError) as raised:
                call()
            assert outcome_of(raised.value) in wanted, (name, wanted)
    # It is what is sent that is wrong, once somebody may send it.
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary("/eliza.sessions.v1.MessageService/SendMessage")(
            b"\xff" * size, metadata=attacked.world.metadata("user"), timeout=30
        )
    assert outcome_of(raised.value) == "INVALID_REQUEST"


BAD: dict[str, bytes] = {
    "no JSON": b"{",
    "no UTF-8": b"\xff\xfe",
    "no object": b"[]",
    "deep": b"[" * 100_000,
    "large": b'"' + b"x" * (MAX_BODY_BYTES - 10) + b'"',
    "large and no JSON": b"{" * MAX_BODY_BYTES,
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_body_of_rest_is_not_parsed(attacked: Attacked, method: str, path: str, body: bytes) -> None:
    world = attacked.world
    ask: Callable[..., Response | None] = partial(
        raw_rest, world.service, path.format(id=world.session_id), method, body
    )
    for media in (JSON, ("Content-Type", "text/plain"), ("Prefer", "handling=strict")):
        assert code_of(ask([media])) == "UNAUTHENTICATED"
        assert code_of(ask([media, ("X-API-KEY", "wrong-wrong-wrong")])) == "UNAUTHENTICATED"
        assert code_of(ask([media, *world.headers("expired").items()])) == "CREDENTIAL_EXPIRED"
    # With a good one it is bad, as it is where the service is open.
    assert code_of(ask([JSON, *world.headers("user").items()])) == "INVALID_REQUEST"
    other = ask([("Content-Type", "text/plain"), *world.headers("user").items()])
    assert code_of(other) == "UNSUPPORTED_MEDIA_TYPE"


def test_a_good_body_is_read_with_a_credential(attacked: Attacked) -> None:
    world = attacked.world
    body = json.dumps({"content": "x", "attachments": [{"text": "x" * 100_000}]}).encode()
    path = f"/{world.session_id}/messages"
    for caller in ("user", "service", "behalf", "token"):
        answer = raw_rest(world.service, path, "POST", body, [JSON, *world.headers(caller).items()])
        assert answer is not None
        assert answer.status == 201, answer.content
    assert code_of(raw_rest(world.service, path, "POST", body, [JSON])) == "UNAUTHENTICATED"
    created = json.dumps({"agentId": AGENT, "userId": ALICE}).encode()
    answer = raw_rest(world.service, "", "POST", created, [JSON, *world.headers("user").items()])
    assert answer is not None
    assert answer.status == 201


@pytest.mark.parametrize(
    ("size", "headers", "called"),
    [
        (100_000, {}, ["GetServiceStatus"]),
        (100_000, {"X_API_KEY": "bad-key"}, ["GetServiceStatus"]),
        (100_000, {"X_API_KEY": "good-key"}, ["GetServiceStatus", "SendMessage"]),
        # What is small costs no call of its own.
        (1000, {}, ["SendMessage"]),
        (1000, {"X_API_KEY": "good-key"}, ["SendMessage"]),
    ],
)
async def test_a_large_body_waits_for_the_servers_word(
    monkeypatch: pytest.MonkeyPatch, size: int, headers: dict[str, str], called: list[str]
) -> None:
    async with fake_server() as server, running(monkeypatch, server.address) as facade:
        server.good, server.status_only = {"good-key"}, True
        named = [(name.replace("_", "-"), value) for name, value in headers.items()]
        target = "/api/messaging/sessions/11111111-1111-4111-8111-111111111111/messages"
        body = json.dumps({"content": "x" * size}).encode()
        sent = request("POST", target, body, [JSON, *named])
        answer = await asyncio.to_thread(exchange, f"127.0.0.1:{facade.port}", [sent], method="POST")
        assert answer is not None
        assert answer.status == (201 if "good-key" in headers.values() else 401), answer.content
        # A body that was parsed is one of a call.
        assert [name for name, _ in server.calls] == called


def test_what_is_over_the_bound_is_not_read_at_all(attacked: Attacked) -> None:
    # The front door says so before anything else: it reads no more of it, and asks nobody.
    length = ("Content-Length", str(16 * 1024 * 1024))
    for headers in ([], [*attacked.world.headers("user").items()]):
        answer = raw_rest(attacked.world.service, "", "POST", b"{", [JSON, length, *headers], timeout=20)
        assert code_of(answer) == "REQUEST_TOO_LARGE"


@pytest.mark.parametrize(
    ("size", "count"), [(MAX_BODY_BYTES, 100), (16 * 1024 * 1024, 30)], ids=["2 MiB", "16 MiB"]
)
def test_many_bodies_without_a_credential_take_little_memory(
    flooded: Attacked, size: int, count: int
) -> None:
    service, found = flooded.world.service, Counter[str]()
    body = b"{" * size
    raw_rest(service, "", "POST", body[:1000], [JSON])
    before = resident_bytes(service)

    def ask() -> None:
        answer = raw_rest(service, "", "POST", body, [JSON], timeout=60)
        # It may close the connection of one that sends on.
        found[code_of(answer) if answer else "closed"] += 1

    asking = [threading.Thread(target=ask) for _ in range(count)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    most = peak_bytes(service) - before
    allowed = {"UNAUTHENTICATED", "OVERLOADED", "UNAVAILABLE", "REQUEST_TOO_LARGE", "closed"}
    assert found.keys() <= allowed, found
    assert sum(found.values()) == count
    if size > MAX_BODY_BYTES:
        assert "UNAUTHENTICATED" not in found
    assert most < MOST_MORE_BYTES, (most, found)
    assert flooded.rest_outcome(*flooded.world.headers("user").items()) == ""


def test_many_messages_without_a_credential_take_little_memory(tmp_path: Path) -> None:
    # How much is in flight grows with how late a busy service hears of its calls: one of three is not busy.
    taken = []
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        with attacked_in(tmp_path / str(number)) as flooded:
            taken.append(memory_of_messages(flooded))
        if taken[-1] < 4 * MOST_MORE_BYTES:
            return
    pytest.fail(f"the service became larger by {taken} bytes")


def memory_of_messages(flooded: Attacked) -> int:
    """How much larger the service becomes, in bytes, while strangers send it messages of 4 MiB."""
    service, found = flooded.world.service, Counter[str]()
    raw = b"\x0a" + b"\xff" * (4 * 1024 * 1024 - 100)
    call = service.channel.unary_unary("/eliza.sessions.v1.MessageService/SendMessage")
    with pytest.raises(grpc.RpcError):
        call(raw[:1000], timeout=30)
    before = resident_bytes(service)
    for _ in range(2):
        calls = [call.future(raw, timeout=60) for _ in range(150)]
        for one in calls:
            error = one.exception()
            assert isinstance(error, grpc.RpcError)
            found[outcome_of(error)] += 1
    assert found == {"UNAUTHENTICATED": 300}
    # They are refused before the core has read them: there is what the connection has in flight. As a whole
    # they would be 600 MiB.
    most = peak_bytes(service) - before
    sent = message_service_pb2.SendMessageRequest(session_id=flooded.world.session_id, content="x")
    service.messages.SendMessage(sent, metadata=flooded.world.metadata("user"), timeout=20)
    return most
