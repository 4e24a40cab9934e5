"""What the Python clients do that a real service would rarely show: credentials, waiting, repeating, TLS."""

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest

from eliza.sessions.errors import Row, error_trailers
from eliza.sessions.v1 import message_service_pb2, session_pb2, session_service_pb2
from eliza.sessions.v1.session_service_pb2_grpc import SessionServiceStub
from eliza_sessions_client import AsyncClient, Client, SessionsError, Timeouts, errors
from eliza_sessions_client.connection import open_channel
from tests.service.python_client.conftest import Connect
from tests.service.python_client.fake import Seen, fake, refuse
from tests.support.service import ECHO, UNKNOWN, USER

TLS = Path(__file__).parents[1] / "tls"
CERTIFICATE, KEY = TLS / "certificate.pem", TLS / "key.pem"
EXPIRED = Row("CREDENTIAL_EXPIRED", "", grpc.StatusCode.UNAUTHENTICATED, 401, {})
"""Also a client that does not know this reason asks for a new token."""

SESSION = session_pb2.Session(session_id=UNKNOWN)


def found(seen: Seen, context: grpc.ServicerContext) -> Any:
    """The answer of a service where all is well."""
    if seen.method == "DeleteSession":
        return session_service_pb2.DeleteSessionResponse()
    response = getattr(session_service_pb2, f"{seen.method}Response")
    return response(session=SESSION)


def credentials_in(seen: Seen) -> dict[str, str]:
    names = ("x-api-key", "authorization", "x-on-behalf-of")
    return {name: value for name, value in seen.metadata.items() if name in names}


def test_credentials_go_with_each_call(connect: Connect) -> None:
    tokens = iter(("one", "two"))
    with fake(found) as service:
        for options in ({}, {"key": "es_a_b", "on_behalf_of": USER}, {"token": "secret"}):
            connect(service.address, **options).get(UNKNOWN)
        renewing = connect(service.address, token=lambda: next(tokens))
        renewing.get(UNKNOWN)
        renewing.get(UNKNOWN)
        assert [credentials_in(seen) for seen in service.seen] == [
            {},
            {"x-api-key": "es_a_b", "x-on-behalf-of": USER},
            {"authorization": "Bearer secret"},
            {"authorization": "Bearer one"},
            {"authorization": "Bearer two"},
        ]


async def test_a_token_may_come_from_an_asynchronous_function() -> None:
    async def token() -> str:
        return "fresh"

    with fake(found) as service:
        async with AsyncClient(service.address, token=token) as client:
            await client.get(UNKNOWN)
        assert credentials_in(service.seen[0]) == {"authorization": "Bearer fresh"}
        with Client(service.address, token=token) as client, pytest.raises(TypeError, match="AsyncClient"):
            client.get(UNKNOWN)


def test_credentials_are_one_and_never_shown() -> None:
    with pytest.raises(ValueError, match="not both"):
        Client("127.0.0.1:1", key="a", token="b")
    with Client("127.0.0.1:1", key="es_secret") as client:
        assert "es_secret" not in repr(vars(client))


def test_a_refused_call_waits_as_long_as_the_service_says_and_is_the_same(connect: Connect) -> None:
    times: list[float] = []

    def overloaded(seen: Seen, context: grpc.ServicerContext) -> Any:
        times.append(time.monotonic())
        if len(times) < 3:
            refuse(context, "OVERLOADED", retryAfterSeconds="0.5")
        return session_service_pb2.CreateSessionResponse(session=SESSION)

    with fake(overloaded) as service:
        connect(service.address).create(ECHO, USER)
        ids = {seen.request.request_id for seen in service.seen}
    assert len(times) == 3
    assert all(later - earlier >= 0.5 for earlier, later in pairwise(times))
    assert len(ids) == 1
    assert ids != {""}


def test_grpc_itself_waits_as_long_as_the_service_says() -> None:
    """The channel that the client uses, without the client's own repetition."""
    times: list[float] = []

    def pushing(seen: Seen, context: grpc.ServicerContext) -> Any:
        times.append(time.monotonic())
        if len(times) == 1:
            refuse(context, "UNAVAILABLE", retryAfterSeconds="0.7")
        return session_service_pb2.GetSessionResponse(session=SESSION)

    with fake(pushing) as service, open_channel(service.address, {}) as channel:
        request = session_service_pb2.GetSessionRequest(session_id=UNKNOWN)
        assert SessionServiceStub(channel).GetSession(request, timeout=20).session == SESSION
    assert len(times) == 2
    assert times[1] - times[0] >= 0.7


def test_a_wait_beyond_the_deadline_is_an_error_at_once(connect: Connect) -> None:
    def full(seen: Seen, context: grpc.ServicerContext) -> Any:
        refuse(context, "RESOURCE_EXHAUSTED", retryAfterSeconds="60")

    with fake(full) as service:
        begun_s = time.monotonic()
        with pytest.raises(errors.ResourceExhaustedError) as raised:
            connect(service.address).send(UNKNOWN, "Hello!")
        assert raised.value.retry_after_seconds == 60
        assert time.monotonic() - begun_s < 20
        assert len(service.seen) == 1


def test_what_is_too_large_is_not_sent_again(connect: Connect) -> None:
    def too_large(seen: Seen, context: grpc.ServicerContext) -> Any:
        refuse(context, "REQUEST_TOO_LARGE", maxBytes="10")

    with fake(too_large) as service:
        with pytest.raises(errors.RequestTooLargeError) as raised:
            connect(service.address).send(UNKNOWN, "Hello!")
        assert raised.value.max_bytes == 10
        assert len(service.seen) == 1


@pytest.mark.parametrize(
    ("call", "repeats"),
    [
        (lambda client: client.get(UNKNOWN), True),
        (lambda client: client.renew(UNKNOWN), True),
        (lambda client: client.renew(UNKNOWN, etag='"1"'), False),
        (lambda client: client.update_timeout(UNKNOWN, Timeouts(auto_renew=True), etag='"1"'), False),
        (lambda client: client.delete(UNKNOWN, etag='"1"'), False),
    ],
    ids=["get", "renew", "renew-etag", "update-etag", "delete-etag"],
)
def test_a_lost_call_is_repeated_where_twice_is_once(connect: Connect, call: Any, repeats: bool) -> None:
    def lost(seen: Seen, context: grpc.ServicerContext) -> Any:
        if len(service.seen) == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        return found(seen, context)

    with fake(lost) as service:
        client = connect(service.address)
        if repeats:
            call(client)
            assert len(service.seen) == 2
        else:
            with pytest.raises(errors.UnavailableError, match="Socket closed"):
                call(client)
            assert len(service.seen) == 1


def test_a_removal_that_was_lost_and_then_finds_nothing_is_done(connect: Connect) -> None:
    def gone(seen: Seen, context: grpc.ServicerContext) -> Any:
        if len(service.seen) == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        refuse(context, "SESSION_NOT_FOUND", sessionId=UNKNOWN)

    with fake(gone) as service:
        assert connect(service.address).delete(UNKNOWN) is None
        with pytest.raises(errors.SessionNotFoundError):
            connect(service.address).delete(UNKNOWN)


def test_a_watch_goes_on_with_a_new_token_where_the_old_one_expires(connect: Connect) -> None:
    def watch(seen: Seen, context: grpc.ServicerContext) -> Any:
        if len(service.seen) < 3:
            sequence = seen.request.after_sequence + 1
            yield session_service_pb2.WatchSessionResponse(entry={"sequence": sequence})
        context.set_trailing_metadata(error_trailers(EXPIRED, "no", {}))
        context.abort(EXPIRED.grpc_status, "The token has expired")

    tokens = iter(("one", "two", "three"))
    with fake(watch) as service:
        events = connect(service.address, token=lambda: next(tokens)).watch(UNKNOWN)
        assert [next(events).sequence for _ in range(2)] == [1, 2]
        # The third token is good for nothing.
        with pytest.raises(SessionsError, match="expired") as raised:
            next(events)
        assert raised.value.code == "CREDENTIAL_EXPIRED"
        assert [credentials_in(seen)["authorization"] for seen in service.seen] == [
            "Bearer one",
            "Bearer two",
            "Bearer three",
        ]
        with pytest.raises(SessionsError, match="expired"):
            list(connect(service.address, token="one").watch(UNKNOWN))


def test_a_conversation_goes_on_with_the_same_request(connect: Connect) -> None:
    def talk(seen: Seen, context: grpc.ServicerContext) -> Any:
        stored = message_service_pb2.SendMessageResponse(message={"message_id": "1", "session_id": UNKNOWN})
        yield message_service_pb2.ConverseResponse(user_message=stored)
        if len(service.seen) == 1:
            yield message_service_pb2.ConverseResponse(chunk={"message_id": "2", "chunk": "We"})
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        # The beginning of this piece was sent while nobody listened.
        yield message_service_pb2.ConverseResponse(chunk={"message_id": "2", "chunk": "l, ", "index": 1})
        yield message_service_pb2.ConverseResponse(reply={"message_id": "2", "content": "Well, "})

    with fake(talk) as service:
        parts = list(connect(service.address).converse(UNKNOWN, "Hello!"))
        assert [type(part).__name__ for part in parts] == [
            "SendMessageResponse",
            "ReplyChunk",
            "ReplyAborted",
            "Message",
        ]
        first, second = (seen.request.message for seen in service.seen)
        assert first == second
        assert first.request_id


def test_tls_needs_the_authority_and_the_certificate_of_the_client(connect: Connect) -> None:
    certificate, key = CERTIFICATE.read_bytes(), KEY.read_bytes()
    credentials = grpc.ssl_server_credentials([(key, certificate)], certificate, require_client_auth=True)
    with fake(found, credentials) as service:
        options = {"ca_file": CERTIFICATE, "server_name": "sessions.test"}
        known = connect(service.address, client_certificate=(CERTIFICATE, KEY), **options)
        assert known.get(UNKNOWN).session_id == UNKNOWN
        for wrong in (options, {"tls": True}, {}):
            with pytest.raises((errors.UnavailableError, errors.DeadlineExceededError)):
                connect(service.address, timeout=1, **wrong).get(UNKNOWN)
        assert len(service.seen) == 1


def test_a_stream_waits_no_longer_than_it_may(connect: Connect) -> None:
    def full(_seen: Seen, context: grpc.ServicerContext) -> Any:
        return refuse(context, "QUOTA_EXCEEDED", quota="open messages", limit="1", retryAfterSeconds="60")
        yield

    begun_s = time.monotonic()
    with fake(full) as service:
        client = connect(service.address)
        for stream in (client.converse(UNKNOWN, "Hi", timeout=5), client.watch(UNKNOWN, patience=5)):
            with pytest.raises(errors.QuotaExceededError):
                next(stream)
        assert [seen.method for seen in service.seen] == ["Converse", "WatchSession"]
    assert time.monotonic() - begun_s < 30
