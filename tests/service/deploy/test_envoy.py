"""deploy/envoy/envoy.yaml in a real Envoy: all that the service speaks, and gRPC-Web and Connect."""

import base64
import json
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import grpc
import pytest
import requests
from google.protobuf.message import Message

from eliza.sessions.v1 import message_service_pb2, session_service_pb2
from tests.service.deploy.front import CHECKS, Behind, Front, behind, wait_until_it_answers
from tests.service.deploy.programs import DEPLOY, program, run, running
from tests.support.realtime.programs import free_address
from tests.support.service import ECHO, USER, Serve

pytestmark = pytest.mark.deploy("envoy")

PATH: Final = DEPLOY / "envoy/envoy.yaml"
PAGE: Final = "https://app.example.com"
"""The origin that the sample allows."""
SERVICES: Final = "/eliza.sessions.v1"
CREATE: Final = f"{SERVICES}.SessionService/CreateSession"
GET: Final = f"{SERVICES}.SessionService/GetSession"
CONVERSE: Final = f"{SERVICES}.MessageService/Converse"
WANTED: Final = session_service_pb2.CreateSessionRequest(agent_id=ECHO, user_id=USER)
MISSING: Final = session_service_pb2.GetSessionRequest(session_id=ECHO)
TRAILER: Final = 0x80
END_OF_STREAM: Final = 0x02


@pytest.fixture(scope="module")
def stage(plain: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    """The server and the facades."""
    with behind(plain, tmp_path_factory.mktemp("envoy-facades")) as placed:
        yield placed


@contextmanager
def envoy(settings: str, address: str, directory: Path) -> Iterator[None]:
    """Envoy with these settings, which listens on this address."""
    (directory / "envoy.yaml").write_text(settings)
    port = address.rpartition(":")[2]
    line = [program("envoy"), "-c", "envoy.yaml", "--base-id", port, "--concurrency", "1", "-l", "warning"]
    with running([*line, "--disable-hot-restart"], directory, "envoy.log"), requests.Session() as http:
        http.trust_env = False
        wait_until_it_answers(f"http://{address}", http)
        yield


@pytest.fixture(scope="module")
def front(stage: Behind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Envoy with the sample, on an address of its own."""
    address = free_address()
    behind_it = (*(facade.address for facade in stage.facades), stage.service.grpc)
    settings = placed(PATH.read_text(), address, *behind_it)
    with (
        envoy(settings, address, tmp_path_factory.mktemp("envoy")),
        requests.Session() as http,
        grpc.insecure_channel(address) as channel,
    ):
        http.trust_env = False
        yield Front(f"http://{address}", http, channel)


def placed(sample: str, *addresses: str) -> str:
    """The sample with the ports of these addresses: its own, those of two facades, and the server's."""
    new = [address.rpartition(":")[2] for address in addresses]
    for old, wanted in zip((8080, 3001, 3002, 50051), new, strict=True):
        assert sample.count(f"port_value: {old}") == 1
        sample = sample.replace(f"port_value: {old}", f"port_value: {wanted}")
    return sample


class Answer(NamedTuple):
    """What a browser gets: the messages, and the trailers or the end of the stream."""

    messages: list[bytes]
    end: bytes


def frames(body: bytes, end_flag: int) -> Answer:
    """Splits a body of gRPC-Web or of a Connect stream."""
    messages, end = [], b""
    while body:
        flags, length = struct.unpack(">BI", body[:5])
        content, body = body[5 : 5 + length], body[5 + length :]
        if flags & end_flag:
            end = content
        else:
            messages.append(content)
    return Answer(messages, end)


def framed(message: Message) -> bytes:
    """A message in the frame of gRPC."""
    content = message.SerializeToString()
    return struct.pack(">BI", 0, len(content)) + content


def web(front: Front, path: str, message: Message, kind: str = "application/grpc-web+proto") -> Answer:
    """A call by gRPC-Web, as a page makes it."""
    body = framed(message)
    text = kind.startswith("application/grpc-web-text")
    answer = front.http.post(
        f"{front.url}{path}",
        data=base64.b64encode(body) if text else body,
        headers={"Content-Type": kind, "Accept": kind, "X-Grpc-Web": "1", "Origin": PAGE},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    content = decoded_parts(answer.content) if text else answer.content
    if "grpc-status" in answer.headers:
        return Answer([], f"grpc-status:{answer.headers['grpc-status']}".encode())
    return frames(content, TRAILER)


def decoded_parts(text: bytes) -> bytes:
    """Decodes base64 that was encoded in parts, each with an end of its own."""
    found = b""
    for start in range(0, len(text), 4):
        found += base64.b64decode(text[start : start + 4])
    return found


def connect(front: Front, path: str, message: Message) -> requests.Response:
    """A unary call by Connect with protobuf, as a page makes it."""
    return front.http.post(
        f"{front.url}{path}",
        data=message.SerializeToString(),
        headers={"Content-Type": "application/proto", "Connect-Protocol-Version": "1", "Origin": PAGE},
        timeout=30,
    )


def test_envoy_takes_the_sample() -> None:
    assert "OK" in run("envoy", "--mode", "validate", "-l", "error", "-c", PATH)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_lets_everything_through(front: Front, check: Callable[[Front], None]) -> None:
    check(front)


@pytest.mark.parametrize("kind", ["application/grpc-web+proto", "application/grpc-web-text+proto"])
def test_grpc_web_is_translated(front: Front, kind: str) -> None:
    answer = web(front, CREATE, WANTED, kind)
    (message,) = answer.messages
    created = session_service_pb2.CreateSessionResponse.FromString(message)
    assert created.session.agent_id == ECHO
    assert b"grpc-status:0" in answer.end
    assert b"grpc-status:5" in web(front, GET, MISSING, kind).end
    said = message_service_pb2.SendMessageRequest(session_id=created.session.session_id, content="Hello!")
    streamed = web(front, CONVERSE, message_service_pb2.ConverseRequest(message=said), kind)
    parts = [message_service_pb2.ConverseResponse.FromString(part) for part in streamed.messages]
    assert [part.reply.content for part in parts if part.HasField("reply")] == ["Hello!"]
    assert b"grpc-status:0" in streamed.end


def test_connect_is_translated(front: Front) -> None:
    answer = connect(front, CREATE, WANTED)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/proto")
    created = session_service_pb2.CreateSessionResponse.FromString(answer.content)
    assert created.session.agent_id == ECHO
    missing = connect(front, GET, MISSING)
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    said = message_service_pb2.SendMessageRequest(session_id=created.session.session_id, content="Hello!")
    streamed = front.http.post(
        f"{front.url}{CONVERSE}",
        data=framed(message_service_pb2.ConverseRequest(message=said)),
        headers={"Content-Type": "application/connect+proto", "Connect-Protocol-Version": "1"},
        timeout=30,
    )
    answer = frames(streamed.content, END_OF_STREAM)
    parts = [message_service_pb2.ConverseResponse.FromString(part) for part in answer.messages]
    assert [part.reply.content for part in parts if part.HasField("reply")] == ["Hello!"]
    assert "error" not in json.loads(answer.end)


def test_only_allowed_pages_may_call(front: Front) -> None:
    def preflight(origin: str) -> requests.Response:
        asked = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type,x-grpc-web",
        }
        return front.http.options(f"{front.url}{CREATE}", headers=asked, timeout=30)

    allowed = preflight(PAGE)
    assert (allowed.status_code, allowed.headers["Access-Control-Allow-Origin"]) == (200, PAGE)
    assert "x-grpc-web" in allowed.headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Origin" not in preflight("https://evil.example").headers


def test_rest_answers_pages_by_its_own_rules(front: Front) -> None:
    """Envoy's list of pages is for calls alone: on REST the facade's answer stands, and there is one."""
    asked = {"Origin": "https://evil.example"}
    answer = front.http.post(front.sessions, json={}, headers=asked, timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (403, "ORIGIN_NOT_ALLOWED")
