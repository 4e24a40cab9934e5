"""Who may do what on several servers: each reads the files of credentials by itself. So a key that is added
or revoked is so at all of them within a second or so, whether they tell each other of the store or not.
"""

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from eliza.sessions.v1 import agent_service_pb2, session_service_pb2
from tests.service.access.world import ALICE, Metadata, key_lines, make_key, outcome_of, write_keys
from tests.service.agents.worker import Worker, stream_agent
from tests.service.replicas.running import Replicas
from tests.support.clients import fails
from tests.support.service import ECHO, Serve
from tests.support.waiting import PATIENCE_SECONDS, until

pytestmark = pytest.mark.postgres

SERVERS = 3
FIRST = make_key("first")


class Files(NamedTuple):
    """The files of credentials, which all servers have, as by a mounted secret."""

    keys: Path
    tokens: Path

    def write_keys(self, **keys: str) -> None:
        """Writes the keys of these ids, a service's each."""
        lines = [key_lines(key_id, key, role="service") for key_id, key in keys.items()]
        write_keys(self.keys, "\n".join(lines))

    def write_tokens(self, *key_ids: str) -> None:
        """Writes keys that sign tokens; an id has the same secret always."""
        secret = {key_id: uuid.uuid5(uuid.NAMESPACE_URL, key_id).hex * 2 for key_id in key_ids}
        write_keys(self.tokens, "".join(f"{key_id} {text}\n" for key_id, text in secret.items()))


def carried(key: str) -> Metadata:
    """What a call carries that shows a key."""
    return (("x-api-key", key),)


def bearer(token: str) -> Metadata:
    """What a call carries that shows a token."""
    return (("authorization", f"Bearer {token}"),)


@pytest.fixture(params=[True, False], ids=["announced", "not announced"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    """The files; their parameter says whether the servers announce."""
    made = Files(tmp_path / "keys.toml", tmp_path / "token-keys")
    made.write_keys(first=FIRST)
    made.write_tokens("one")
    return made


@pytest.fixture
def protected(files: Files, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Replicas]:
    """Servers that share a store and these files."""
    announces = request.node.callspec.params["files"]
    running = Replicas(
        tmp_path,
        SERVERS,
        KEYS_FILE=str(files.keys),
        ACCESS_TOKEN_KEYS_FILE=str(files.tokens),
        POSTGRES_ANNOUNCE=str(announces).lower(),
    )
    yield running
    running.close()


def create(server: Serve, metadata: Metadata) -> str:
    """Creates a session of Alice; returns its id."""
    request = session_service_pb2.CreateSessionRequest(agent_id=ECHO, user_id=ALICE)
    return server.sessions.CreateSession(
        request, metadata=metadata, timeout=PATIENCE_SECONDS
    ).session.session_id


def outcome(server: Serve, session_id: str, metadata: Metadata) -> str:
    """How a read of a session ends: OK, or the reason why not."""
    request = session_service_pb2.GetSessionRequest(session_id=session_id)
    try:
        server.sessions.GetSession(request, metadata=metadata, timeout=PATIENCE_SECONDS)
    except grpc.RpcError as error:
        return outcome_of(error)
    return "OK"


def make_token(server: Serve, session_id: str) -> Metadata:
    """A token for a session, which a server has made."""
    request = session_service_pb2.CreateAccessTokenRequest(session_id=session_id, verbs=["read"])
    made = server.sessions.CreateAccessToken(request, metadata=carried(FIRST), timeout=PATIENCE_SECONDS)
    return bearer(made.access_token)


def wait_for(replicas: Replicas, session_id: str, metadata: Metadata, *, is_good: bool) -> float:
    """Waits until a credential is good at each server, or at none; returns the seconds that it took."""
    begun_s = time.monotonic()
    # After ten wrong credentials a minute a server does not even look at further ones.
    wanted = {"OK"} if is_good else {"UNAUTHENTICATED", "RATE_LIMITED"}
    for server in replicas.servers:
        until(lambda server=server: outcome(server, session_id, metadata) in wanted, f"{wanted}")
    return time.monotonic() - begun_s


def watch(server: Serve, session_id: str, metadata: Metadata) -> Any:
    """A watch that has begun."""
    request = session_service_pb2.WatchSessionRequest(session_id=session_id, after_sequence=0)
    return server.sessions.WatchSession(request, metadata=metadata, timeout=PATIENCE_SECONDS)


def test_a_key_that_is_added_or_revoked_is_so_at_every_server(files: Files, protected: Replicas) -> None:
    session_id, second = create(protected.servers[0], carried(FIRST)), make_key("second")
    for server in protected.servers:
        assert outcome(server, session_id, carried(FIRST)) == "OK"
        assert outcome(server, session_id, carried(second)) == "UNAUTHENTICATED"
    files.write_keys(first=FIRST, second=second)
    added_s = wait_for(protected, session_id, carried(second), is_good=True)
    watches = [watch(server, session_id, carried(second)) for server in protected.servers]
    files.write_keys(first=FIRST)
    removed_s = wait_for(protected, session_id, carried(second), is_good=False)
    for one in watches:
        fails(lambda one=one: list(one), "CREDENTIAL_EXPIRED")
    print(f"a key: added at all after {added_s:.2f} s, removed after {removed_s:.2f} s")


def test_a_token_of_one_server_is_good_at_all_until_its_key_is_gone(
    files: Files, protected: Replicas
) -> None:
    here, there, _ = protected.servers
    session_id = create(here, carried(FIRST))
    token = make_token(here, session_id)
    wait_for(protected, session_id, token, is_good=True)
    # The new key signs; the old one is good until it is removed.
    files.write_tokens("two", "one")
    wait_for(protected, session_id, token, is_good=True)
    files.write_tokens("two")
    revoked_s = wait_for(protected, session_id, token, is_good=False)
    wait_for(protected, session_id, make_token(there, session_id), is_good=True)
    print(f"a token: revoked at all after {revoked_s:.2f} s")


def test_a_token_of_a_session_that_is_deleted_elsewhere_leads_nowhere(protected: Replicas) -> None:
    """What is in the store no server has to be told: it looks."""
    here, there, other = protected.servers
    session_id = create(here, carried(FIRST))
    token = make_token(here, session_id)
    following = watch(other, session_id, token)
    there.sessions.DeleteSession(
        session_service_pb2.DeleteSessionRequest(session_id=session_id),
        metadata=carried(FIRST),
        timeout=PATIENCE_SECONDS,
    )
    for server in protected.servers:
        assert outcome(server, session_id, token) == "SESSION_NOT_FOUND"
    fails(lambda: list(following), "SESSION_NOT_FOUND")


ALONE = "session access tokens are good at the server that made them alone"


def test_servers_without_a_common_key_of_tokens_say_so(tmp_path: Path) -> None:
    """Each signs with a key of its own, which no other one knows."""
    files = Files(tmp_path / "keys.toml", tmp_path / "token-keys")
    files.write_keys(first=FIRST)
    running = Replicas(tmp_path, 2, KEYS_FILE=str(files.keys))
    try:
        here, there = running.servers
        session_id = create(here, carried(FIRST))
        token = make_token(here, session_id)
        assert [outcome(server, session_id, token) for server in (here, there)] == ["OK", "UNAUTHENTICATED"]
        assert [server.log().count(ALONE) for server in (here, there)] == [1, 1]
        assert "ACCESS_TOKEN_KEYS_FILE" in here.log()
    finally:
        running.close()


def test_servers_with_one_say_nothing(protected: Replicas) -> None:
    assert [ALONE in server.log() for server in protected.servers] == [False] * SERVERS


def test_workers_end_with_their_agent_wherever_it_is_removed(replicas: Replicas) -> None:
    """Also where nobody announces it: within a few seconds then."""
    here, there = replicas.servers
    agent_id = stream_agent(here)
    with Worker(there.channel, agent_id) as worker:
        here.agents.DeleteAgent(agent_service_pb2.DeleteAgentRequest(agent_id=agent_id), timeout=10)
        fails(worker.told, "AGENT_NOT_FOUND")
