"""Clients of different servers on one store have one service: what one stores, all others see."""

import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from eliza.sessions.v1 import (
    admin_service_pb2,
    agent_service_pb2,
    log_pb2,
    message_service_pb2,
    session_service_pb2,
)
from tests.service.admin.asking import deliveries
from tests.service.agents.worker import Worker, stream_agent
from tests.service.replicas.running import Replicas
from tests.support.clients import create, fails, history, replies, run, send
from tests.support.realtime.streams import Watching
from tests.support.service import Serve
from tests.support.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.postgres

LEASES_BACK_SECONDS = 15
"""How long a delivery is held at most by a server that is dead."""


def waited(
    replicas: Replicas, server: int, session_id: str, content: str
) -> message_service_pb2.SendMessageResponse:
    request = message_service_pb2.SendMessageRequest(session_id=session_id, content=content)
    request.reply_wait.FromSeconds(30)
    return replicas.servers[server].messages.SendMessage(request, timeout=PATIENCE_SECONDS)


def test_who_watches_at_one_sees_what_is_sent_at_the_other(replicas: Replicas) -> None:
    here, there = replicas.servers
    session = create(here)
    watching = Watching(there, session.session_id)
    sent = [send(here, session.session_id, "a"), send(there, session.session_id, "b")]
    met = watching.entries(4)
    assert [entry.sequence for entry in met] == [1, 2, 3, 4]
    assert {entry.message.message_id for entry in met if not entry.message.is_agent} == {
        message.message_id for message in sent
    }
    assert history(here, session.session_id) == history(there, session.session_id)
    watching.close()


def test_who_watches_at_one_is_told_that_it_was_deleted_at_the_other(replicas: Replicas) -> None:
    here, there = replicas.servers
    session = create(here)
    watching = Watching(there, session.session_id)
    send(here, session.session_id, "a")
    watching.entry()
    here.sessions.DeleteSession(
        session_service_pb2.DeleteSessionRequest(session_id=session.session_id), timeout=10
    )
    fails(lambda: list(watching.call), "SESSION_NOT_FOUND")


def test_a_worker_at_one_answers_what_is_sent_at_the_other(replicas: Replicas) -> None:
    here, there = replicas.servers
    agent_id = stream_agent(here)
    session = create(here, agent_id)
    with Worker(there.channel, agent_id) as worker:
        for content in ("a", "b"):
            send(here, session.session_id, content)
            delivery = worker.next()
            assert delivery.message.content == content
            worker.answer(delivery, content.upper())
        assert [reply.content for reply in replies(here, session.session_id, 2)] == ["A", "B"]


def test_each_server_tells_what_a_worker_at_another_has_in_hand(announcing: Replicas) -> None:
    here, there = announcing.servers
    agent_id = stream_agent(here)
    session = create(here, agent_id)
    with Worker(there.channel, agent_id) as worker:
        send(here, session.session_id, "a")
        worker.next()
        told = [deliveries(server, session_id=session.session_id)[0] for server in (here, there)]
        assert [one.state for one in told] == [admin_service_pb2.DELIVERY_STATE_IN_HAND] * 2
        for one in told:
            assert one.HasField("lease_expires_at")
            assert not one.HasField("next_attempt_at")


def test_who_waits_for_a_reply_gets_that_of_a_worker_at_the_other(replicas: Replicas) -> None:
    here, there = replicas.servers
    agent_id = stream_agent(here)
    session = create(here, agent_id)
    with Worker(there.channel, agent_id) as worker, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(waited, replicas, 0, session.session_id, "hi")
        worker.answer(worker.next(), "hello")
        assert waiting.result().reply.content == "hello"


def test_an_agent_that_is_removed_at_one_ends_its_workers_at_the_other(announcing: Replicas) -> None:
    here, there = announcing.servers
    agent_id = stream_agent(here)
    with Worker(there.channel, agent_id) as worker:
        here.agents.DeleteAgent(agent_service_pb2.DeleteAgentRequest(agent_id=agent_id), timeout=10)
        fails(worker.told, "AGENT_NOT_FOUND")


def test_an_agent_whose_removal_was_not_heard_of_ends_its_workers_once_all_is_looked_at(
    announcing: Replicas,
) -> None:
    agent_id = stream_agent(announcing.servers[0])
    with (
        Worker(announcing.servers[1].channel, agent_id) as worker,
        psycopg.connect(announcing.url, autocommit=True) as link,
    ):
        link.execute("DELETE FROM agents WHERE id = %s", [agent_id])
        # Whoever hears again after a break looks at everything.
        link.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name LIKE '%listens'"
        )
        fails(worker.told, "AGENT_NOT_FOUND")


def test_pieces_of_a_reply_are_seen_at_the_other(announcing: Replicas) -> None:
    here, there = announcing.servers
    agent_id = stream_agent(here)
    session = create(here, agent_id)
    watching = Watching(there, session.session_id)
    with Worker(here.channel, agent_id) as worker:
        send(here, session.session_id, "hi")
        assert watching.entry().sequence == 1
        delivery = worker.next()
        worker.chunk(delivery, "hel")
        worker.chunk(delivery, "lo")
        text = ""
        while text != "hello":
            event = watching.event()
            assert isinstance(event, log_pb2.ReplyChunk)
            text += event.chunk
        worker.answer(delivery, "hello")
        assert watching.entry().message.content == "hello"
    watching.close()


def test_what_a_killed_server_had_in_hand_is_given_again(replicas: Replicas) -> None:
    here, there = replicas.servers
    agent_id = stream_agent(here)
    session = create(here, agent_id)
    with Worker(there.channel, agent_id) as doomed:
        send(here, session.session_id, "a")
        assert doomed.next().message.content == "a"
        there.kill()
        begun_s = time.monotonic()
        with Worker(here.channel, agent_id) as worker:
            delivery = worker.next()
            took_s = time.monotonic() - begun_s
            worker.answer(delivery, "A")
    assert took_s < LEASES_BACK_SECONDS
    assert [reply.content for reply in replies(here, session.session_id, 1)] == ["A"]


def begin_reply(here: Serve, session_id: str, watching: Watching, worker: Worker) -> log_pb2.ReplyChunk:
    """Sends a message, of whose reply a worker has made one piece."""
    send(here, session_id, "hi")
    assert watching.entry().sequence == 1
    worker.chunk(worker.next(), "half a ")
    piece = watching.event()
    assert isinstance(piece, log_pb2.ReplyChunk)
    return piece


@pytest.mark.parametrize("sends_pieces", [True, False])
def test_pieces_of_a_killed_server_are_voided_by_the_next_attempt(
    announcing: Replicas, sends_pieces: bool
) -> None:
    here, there = announcing.servers
    agent_id = stream_agent(here)
    session = create(here, agent_id)
    watching = Watching(here, session.session_id)
    with Worker(there.channel, agent_id) as doomed:
        first = begin_reply(here, session.session_id, watching, doomed)
        with Worker(here.channel, agent_id) as worker:
            there.kill()
            delivery = worker.next()
            if sends_pieces:
                worker.chunk(delivery, "all")
            worker.answer(delivery, "all of it")
        events = [watching.event() for _ in range(3 if sends_pieces else 2)]
    kinds = [type(event) for event in events]
    void, reply = events[0], events[-1]
    assert kinds == [log_pb2.ReplyAborted, *[log_pb2.ReplyChunk] * sends_pieces, log_pb2.LogEntry]
    assert void.message_id == first.message_id
    assert reply.message.content == "all of it"
    assert reply.message.message_id != first.message_id
    watching.close()


def test_pieces_of_a_killed_server_are_voided_while_nobody_answers_in_its_place(announcing: Replicas) -> None:
    here, there = announcing.servers
    agent_id = stream_agent(here)
    session = create(here, agent_id)
    watching = Watching(here, session.session_id)
    with Worker(there.channel, agent_id) as doomed:
        first = begin_reply(here, session.session_id, watching, doomed)
        there.kill()
        void = watching.event()
    assert isinstance(void, log_pb2.ReplyAborted)
    assert (void.message_id, void.attempt) == (first.message_id, first.attempt)
    watching.close()


def test_what_a_server_had_in_hand_that_stops_is_given_again_at_once(replicas: Replicas) -> None:
    here, there = replicas.servers
    agent_id = stream_agent(here)
    session = create(here, agent_id)
    with Worker(there.channel, agent_id) as leaving:
        send(here, session.session_id, "a")
        leaving.next()
        assert there.stop() == 0
    with Worker(here.channel, agent_id) as worker:
        worker.answer(worker.next(), "A")
    assert len(replies(here, session.session_id, 1)) == 1


def test_the_store_is_sound_while_it_is_served(replicas: Replicas) -> None:
    here, there = replicas.servers
    for server in (here, there):
        session = create(server)
        send(server, session.session_id, "a")
        replies(server, session.session_id, 1)
    url = replicas.url
    done = run("check", cwd=replicas.directory, DATABASE_URL=url)
    assert (done.status, done.errors) == (0, "")
    assert "is sound: 2 sessions, 4 entries, 2 deliveries" in done.out
    assert run("migrate", cwd=replicas.directory, DATABASE_URL=url).out.endswith("is at schema 1\n")
