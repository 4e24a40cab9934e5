"""Streams of each kind end with their credentials, soon, and no other stream does."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import duration_pb2

from eliza.sessions.v1 import message_service_pb2, session_service_pb2
from tests.service.access.attacked import Attacked, Provider, make_attacked, write_jwks
from tests.service.access.open_streams import KINDS, Open, Worker, ends, goes_on, send, watch
from tests.service.access.rings import Ring, advance
from tests.service.access.world import AGENT, ALICE, BOB, OTHER_TENANT, Metadata, World
from tests.support.service import Serve
from tests.support.waiting import until

SIGNING = "one " + "11" * 32, "two " + "22" * 32


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    """A protected service whose clock is moved, and whose files change."""
    directory = tmp_path_factory.mktemp("moved")
    _write_signing(directory, SIGNING[0])
    made = make_attacked(
        partial(Serve, directory),
        directory,
        ACCESS_TOKEN_KEYS_FILE=str(directory / "signing"),
        DELIVERY_LEASE_SECONDS="4",
        AGENT_CONCURRENCY="16",
        SESSION_MAX_TIMEOUT_MINUTES="10000",
    )
    yield made
    assert made.world.service.stop() == 0, made.world.service.log()
    assert "internal error" not in made.world.service.log()


@pytest.fixture(scope="module")
def ring(moved: Attacked) -> Ring:
    return Ring(moved)


@pytest.fixture
def session_id(moved: Attacked) -> str:
    return moved.world.new_session()


@pytest.fixture
def witness(moved: Attacked, session_id: str) -> Iterator[Open]:
    """A stream of another credential's."""
    stream = watch(moved.world, session_id, moved.world.metadata("user"))
    yield stream
    goes_on(moved.world, session_id, stream)
    stream.close()


def _write_signing(directory: Path, *lines: str) -> None:
    fresh = directory / "signing.new"
    fresh.write_text("\n".join([*lines, ""]))
    fresh.chmod(0o600)
    fresh.rename(directory / "signing")


def opened(world: World, kind: str, session_id: str, headers: Metadata) -> Open:
    """A stream that has heard of a message, if its kind does."""
    stream = KINDS[kind](world, session_id, headers)
    if kind == "converse":
        stream.wait()
    else:
        count = len(stream.heard)
        send(world, session_id)
        stream.wait(count + 1)
    return stream


def token_for(moved: Attacked, session_id: str, seconds: int = 60) -> str:
    """A token for one session."""
    asked = session_service_pb2.CreateAccessTokenRequest(
        session_id=session_id, lifetime=duration_pb2.Duration(seconds=seconds)
    )
    service, options = moved.world.service, {"metadata": moved.world.metadata("service"), "timeout": 20}
    made: Any = service.sessions.CreateAccessToken(asked, **options)
    return str(made.access_token)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("witness")
def test_a_stream_ends_when_its_key_expires(moved: Attacked, ring: Ring, session_id: str, kind: str) -> None:
    key = ring.add_expiring()
    stream = opened(moved.world, kind, session_id, key)
    advance(moved, 58)
    assert not stream.end
    advance(moved, 2)
    ends(stream)
    assert moved.grpc_outcome(*key) == "CREDENTIAL_EXPIRED"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("witness")
def test_a_stream_ends_when_its_key_is_removed(
    moved: Attacked, ring: Ring, session_id: str, kind: str
) -> None:
    key = ring.add()
    stream = opened(moved.world, kind, session_id, key)
    ring.remove(key)
    ends(stream)
    assert moved.grpc_outcome(*key) in ("UNAUTHENTICATED", "RATE_LIMITED")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("witness")
def test_a_stream_ends_with_its_token(moved: Attacked, session_id: str, kind: str) -> None:
    token = token_for(moved, session_id)
    headers: Metadata = (("authorization", f"Bearer {token}"),)
    stream = opened(
        moved.world, kind, session_id, (("access_token", token),) if kind == "events" else headers
    )
    advance(moved, 58)
    assert not stream.end
    advance(moved, 2)
    ends(stream)
    # It was for that session, which is there still: the token has ended.
    again = KINDS["watch"](moved.world, session_id, headers)
    assert again.wait_end() == "CREDENTIAL_EXPIRED"


CHANGES: dict[str, dict[str, str]] = {
    "role": {"role": "service", "user": ""},
    "tenant": {"tenant": OTHER_TENANT},
    "user": {"user": BOB},
    "end": {"not_after": "2021-01-01T00:00:00Z"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("kind", ["watch_many", "events", "websocket"])
@pytest.mark.usefixtures("witness")
def test_a_stream_ends_when_its_key_means_something_else(
    moved: Attacked, ring: Ring, session_id: str, kind: str, change: dict[str, str]
) -> None:
    key = ring.add()
    stream = opened(moved.world, kind, session_id, key)
    ring.change(key, **change)
    ends(stream)


@pytest.mark.usefixtures("witness")
def test_a_stream_stays_where_its_key_means_the_same(moved: Attacked, ring: Ring, session_id: str) -> None:
    key = ring.add_expiring()
    stream = opened(moved.world, "watch", session_id, key)
    # The file is another one, and the key ends later than it did when the stream began.
    ring.change(key, not_after="2100-01-01T00:00:00Z")
    doomed_key = ring.add()
    doomed = opened(moved.world, "watch", session_id, doomed_key)
    ring.remove(doomed_key)
    ends(doomed)
    goes_on(moved.world, session_id, stream)
    stream.close()


@pytest.mark.usefixtures("witness")
def test_a_stream_on_behalf_of_a_user_ends_with_the_services_key(
    moved: Attacked, ring: Ring, session_id: str
) -> None:
    key = ring.add("service")
    streams = [
        opened(moved.world, kind, session_id, (*key, ("x-on-behalf-of", ALICE)))
        for kind in ("watch", "events")
    ]
    ring.remove(key)
    for stream in streams:
        ends(stream)


@pytest.mark.parametrize("kind", ["watch", "events", "websocket"])
@pytest.mark.usefixtures("witness")
def test_a_stream_ends_with_its_jwt(moved: Attacked, session_id: str, kind: str) -> None:
    now_s = moved.now_s
    headers = (("authorization", f"Bearer {moved.provider.token(now_s, exp=now_s + 30)}"),)
    stream = opened(moved.world, kind, session_id, headers)
    advance(moved, 28)
    assert not stream.end
    advance(moved, 3)
    ends(stream)


@pytest.mark.usefixtures("witness")
def test_a_stream_ends_with_the_key_that_signed_its_credential(moved: Attacked, session_id: str) -> None:
    path, world = moved.directory / "jwks.json", moved.world
    by_jwt = opened(world, "watch", session_id, (("authorization", f"Bearer {moved.token()}"),))
    token = token_for(moved, session_id)
    by_token = opened(world, "watch", session_id, (("authorization", f"Bearer {token}"),))
    try:
        write_jwks(path, Provider("other").jwk)
        ends(by_jwt)
        assert not by_token.end
        # The next key signs; then the first one goes.
        _write_signing(moved.directory, SIGNING[1], SIGNING[0])
        goes_on(world, session_id, by_token)
        _write_signing(moved.directory, SIGNING[1])
        ends(by_token)
    finally:
        write_jwks(path, moved.provider.jwk)
        _write_signing(moved.directory, SIGNING[0])


# Workers.


class Bench:
    """An agent of a test's own, with sessions whose messages are for it."""

    def __init__(self, moved: Attacked, ring: Ring) -> None:
        self.world, self.ring = moved.world, ring
        self.agent_id = moved.world.new_agent()

    def worker(self, headers: Metadata, capacity: int = 1) -> Worker:
        return Worker(self.world, self.agent_id, headers, capacity)

    def key(self) -> Metadata:
        return self.ring.add("agent", agent=self.agent_id)

    def message(self) -> str:
        """The id of a new session with a message."""
        request = session_service_pb2.CreateSessionRequest(agent_id=self.agent_id, user_id=ALICE)
        options: dict[str, Any] = {"metadata": self.world.metadata("service"), "timeout": 20}
        session_id = self.world.service.sessions.CreateSession(request, **options).session.session_id
        send(self.world, session_id)
        return str(session_id)

    def texts(self, session_id: str) -> list[str]:
        """What the session's messages say, the oldest first."""
        request = message_service_pb2.ListMessagesRequest(session_id=session_id)
        options: dict[str, Any] = {"metadata": self.world.metadata("service"), "timeout": 20}
        found = self.world.service.messages.ListMessages(request, **options).messages
        return [message.content for message in found][::-1]


@pytest.fixture
def bench(moved: Attacked, ring: Ring) -> Bench:
    return Bench(moved, ring)


def test_a_worker_whose_key_expires_finishes_what_it_has(moved: Attacked, ring: Ring, bench: Bench) -> None:
    key, good_key = ring.add_expiring("agent", agent=bench.agent_id), bench.key()
    worker = bench.worker(key, capacity=5)
    first = bench.message()
    held = worker.wait_delivery()
    # A watch with the same key says when the server has noticed.
    notice = watch(bench.world, first, key)
    advance(moved, 60)
    ends(notice)
    second = bench.message()
    other = bench.worker(good_key)
    assert other.wait_delivery().session.session_id == second
    assert (len(worker.deliveries), worker.end) == (1, "")
    worker.chunk(held.delivery_id, "Fin")
    worker.reply(held.delivery_id, "Finished")
    assert worker.wait_end() == "CREDENTIAL_EXPIRED"
    assert worker.told("accepted") == [held.delivery_id]
    assert worker.told("refused") == []
    assert bench.texts(first) == ["Hello", "Finished"]
    assert other.deliveries[0].attempt == 1
    # Nobody comes back with it.
    with pytest.raises(AssertionError, match="CREDENTIAL_EXPIRED"):
        bench.worker(key)
    other.close()


def test_a_worker_with_nothing_to_do_ends_when_its_key_expires(
    moved: Attacked, ring: Ring, bench: Bench
) -> None:
    worker = bench.worker(ring.add_expiring("agent", agent=bench.agent_id))
    advance(moved, 60)
    ends(worker)


def test_a_worker_that_does_not_answer_ends_with_its_leases(
    moved: Attacked, ring: Ring, bench: Bench
) -> None:
    worker = bench.worker(ring.add_expiring("agent", agent=bench.agent_id))
    session_id = bench.message()
    worker.wait_delivery()
    advance(moved, 60)
    # Leases are of 4 seconds here.
    assert until(lambda: worker.end, "the end of the lease", 15) == "CREDENTIAL_EXPIRED"
    other = bench.worker(bench.key())
    advance(moved, 600)
    assert other.wait_delivery().session.session_id == session_id
    other.close()


@pytest.mark.parametrize("begun", [False, True], ids=["untouched", "begun"])
def test_the_deliveries_of_a_removed_worker_go_to_another_uncharged(
    ring: Ring, bench: Bench, begun: bool
) -> None:
    key = bench.key()
    worker = bench.worker(key, capacity=2)
    sessions = [bench.message(), bench.message()]
    worker.wait_delivery(2)
    # It has room for both, and nothing to do yet.
    other = bench.worker(bench.key(), capacity=2)
    if begun:
        stream = watch(bench.world, sessions[0], bench.world.metadata("service"))
        stream.wait()
        for delivery in worker.deliveries:
            worker.chunk(delivery.delivery_id, "I would say")
        until(lambda: any(one.HasField("chunk") for one in stream.heard), "the chunk to be told")
        stream.close()
    ring.remove(key)
    ends(worker)
    until(lambda: len(other.deliveries) == 2, "the deliveries to go to the other worker", 5)
    assert {delivery.session.session_id for delivery in other.deliveries} == {*sessions}
    assert [delivery.attempt for delivery in other.deliveries] == [1, 1]
    assert {delivery.delivery_id for delivery in other.deliveries} == {
        delivery.delivery_id for delivery in worker.deliveries
    }
    for delivery in other.deliveries:
        other.reply(delivery.delivery_id, "Done")
    until(lambda: len(other.told("accepted")) == 2, "the replies to be stored")
    assert [bench.texts(session_id) for session_id in sessions] == [["Hello", "Done"]] * 2
    other.close()


def test_a_removed_worker_is_not_heard_any_more(ring: Ring, bench: Bench) -> None:
    key = bench.key()
    worker = bench.worker(key)
    session_id = bench.message()
    delivery_id = worker.wait_delivery().delivery_id
    ring.remove(key)
    ends(worker)
    worker.reply(delivery_id, "Too late")
    other = bench.worker(bench.key())
    other.wait_delivery()
    other.reply(delivery_id, "In time")
    until(lambda: other.told("accepted"), "the reply to be stored")
    assert bench.texts(session_id) == ["Hello", "In time"]
    other.close()


def test_a_worker_that_has_expired_may_be_removed_still(moved: Attacked, ring: Ring, bench: Bench) -> None:
    key, good_key = ring.add_expiring("agent", agent=bench.agent_id), bench.key()
    worker = bench.worker(key)
    bench.message()
    worker.wait_delivery()
    notice = watch(bench.world, bench.message(), key)
    advance(moved, 60)
    ends(notice)
    assert not worker.end
    other = bench.worker(good_key, capacity=2)
    ring.remove(key)
    ends(worker)
    assert other.wait_delivery(2).attempt == 1
    other.close()


def test_a_worker_whose_agent_is_another_ends(moved: Attacked, ring: Ring, bench: Bench) -> None:
    key = bench.key()
    worker = bench.worker(key)
    ring.change(key, agent=AGENT)
    ends(worker)
