"""Workers that die, whose lease runs out, or who are not there; and the service's end."""

import itertools
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from eliza.sessions.v1 import agent_pb2, errors_pb2
from eliza.sessions.v1 import agent_service_pb2 as pb
from eliza.sessions.v1.session_service_pb2 import DeleteSessionRequest
from tests.service.agents.stream.reading import LEASE_SECONDS, exchanged, failure
from tests.service.agents.worker import Worker, stream_agent
from tests.support.clients import create, ended, fails, history, send
from tests.support.service import Serve
from tests.support.waiting import until


class TestGone:
    def test_the_delivery_of_a_worker_that_dies_goes_to_another(self, service: Serve) -> None:
        """Where it had said nothing yet, that is not one of the delivery's three attempts."""
        agent_id = stream_agent(service)
        session_id = create(service, agent_id).session_id
        send(service, session_id, "hello")
        for end in (Worker.close, Worker.leave) * 4:
            worker = Worker(service.channel, agent_id)
            assert worker.next().attempt == 1
            end(worker)
            worker.close()
        with Worker(service.channel, agent_id) as heir:
            heir.answer(heir.next(), "hi")
        assert exchanged(service, session_id, 1) == [("hello", "hi")]

    def test_a_delivery_whose_worker_had_begun_is_charged_with_its_death(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        session_id = create(service, agent_id).session_id
        send(service, session_id, "hello")
        for attempt in (1, 2, 3):
            with Worker(service.channel, agent_id) as worker:
                delivery = worker.next()
                assert delivery.attempt == attempt
                worker.chunk(delivery, "well ")
                # By its answer the chunk is through, too.
                worker.chunk("nonsense", "x")
                worker.expect("refused")
        failed = failure(service, session_id)
        assert (failed.reason, failed.attempts) == ("the connection to the agent's worker was lost", 3)

    def test_a_message_that_kills_whoever_takes_it_fails_in_the_end(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        session_id = create(service, agent_id).session_id
        send(service, session_id, "hello")
        attempts = []
        for _ in range(20 + 3):
            with Worker(service.channel, agent_id) as worker:
                attempts.append(worker.next().attempt)
        assert attempts == [1] * 21 + [2, 3]
        failed = failure(service, session_id)
        assert (failed.reason, failed.attempts) == ("the connection to the agent's worker was lost", 3)

    def test_the_delivery_of_a_session_that_is_deleted_is_revoked(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        session_id, other_id = create(service, agent_id).session_id, create(service, agent_id).session_id
        with Worker(service.channel, agent_id) as worker:
            send(service, session_id, "hello")
            delivery = worker.next()
            service.sessions.DeleteSession(DeleteSessionRequest(session_id=session_id), timeout=10)
            assert worker.expect("revoked").delivery_id == delivery.delivery_id
            worker.reply(delivery, "too late")
            assert worker.expect("refused").reason == errors_pb2.ERROR_REASON_SESSION_NOT_FOUND
            send(service, other_id, "hello")
            worker.answer(worker.next(), "hi")

    @pytest.mark.parametrize("removed", [False, True], ids=["another kind", "removed"])
    def test_an_agent_that_takes_no_workers_any_more_ends_their_streams(
        self, service: Serve, removed: bool
    ) -> None:
        agent_id = stream_agent(service)
        sessions = [create(service, agent_id).session_id for _ in range(2)]
        for session_id in sessions:
            send(service, session_id, "hello")
        with Worker(service.channel, agent_id) as busy:
            busy.next()
            if removed:
                service.agents.DeleteAgent(pb.DeleteAgentRequest(agent_id=agent_id), timeout=10)
                fails(busy.told, "AGENT_NOT_FOUND")
                for session_id in sessions:
                    assert failure(service, session_id).reason == "the agent has been removed"
            else:
                changed = agent_pb2.Agent(agent_id=agent_id, kind=agent_pb2.AGENT_KIND_ECHO)
                service.agents.UpdateAgent(
                    pb.UpdateAgentRequest(agent=changed, update_mask=FieldMask(paths=["kind"])), timeout=10
                )
                fails(busy.told, "INVALID_FIELD")
                for session_id in sessions:
                    assert exchanged(service, session_id, 1) == [("hello", "hello")]

    def test_a_new_name_disturbs_nobody(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        session_id = create(service, agent_id).session_id
        with Worker(service.channel, agent_id) as worker:
            send(service, session_id, "hello")
            delivery = worker.next()
            changed = agent_pb2.Agent(agent_id=agent_id, name="renamed")
            service.agents.UpdateAgent(pb.UpdateAgentRequest(agent=changed), timeout=10)
            worker.answer(delivery, "hi")
            send(service, session_id, "again")
            worker.answer(worker.next(), "hi")


class TestLeases:
    @pytest.mark.parametrize("first", ["old", "new"])
    def test_a_lease_that_runs_out_is_given_to_another_and_one_reply_is_kept(
        self, hasty: Serve, first: str
    ) -> None:
        agent_id = stream_agent(hasty)
        session_id, beside_id = create(hasty, agent_id).session_id, create(hasty, agent_id).session_id
        with Worker(hasty.channel, agent_id) as new:
            send(hasty, beside_id, "keeps the new one from taking the other")
            beside = new.next()
            with Worker(hasty.channel, agent_id) as old:
                send(hasty, session_id, "hello")
                delivery = old.next()
                new.answer(beside, "done")
                assert old.expect("revoked").delivery_id == delivery.delivery_id
                while (told := new.told())[0] != "delivery" or told[1].delivery_id != delivery.delivery_id:
                    # On a slow machine the other lease may have run out, too.
                    assert told[0] in ("delivery", "revoked", "accepted", "refused")
                again = told[1]
                assert again.attempt > delivery.attempt
                assert again.reply_message_id != delivery.reply_message_id
                winner, loser = (old, new) if first == "old" else (new, old)
                winner.reply(delivery, first)
                until(lambda: len(history(hasty, session_id)) == 2, "the reply")
                loser.reply(delivery, "too late")
                while (told := loser.told())[0] != "refused":
                    assert told[0] == "revoked"
                assert told[1].reason == errors_pb2.ERROR_REASON_DELIVERY_ALREADY_ANSWERED
        assert exchanged(hasty, session_id, 1) == [("hello", first)]

    def test_a_chunk_extends_the_lease(self, hasty: Serve) -> None:
        agent_id = stream_agent(hasty)
        session_id = create(hasty, agent_id).session_id
        send(hasty, session_id, "hello")
        with Worker(hasty.channel, agent_id) as worker:
            deadline = time.monotonic() + 30
            while True:
                # A machine that stands still for the time of a lease may spoil a try, not the test.
                delivery, end = worker.next(), time.monotonic() + 2 * LEASE_SECONDS
                while time.monotonic() < end:
                    worker.chunk(delivery, ".")
                    time.sleep(LEASE_SECONDS / 20)
                worker.reply(delivery, "hi")
                kind, _ = worker.told()
                if kind == "accepted" or time.monotonic() > deadline:
                    break
            assert kind == "accepted"


class TestNobodyThere:
    def test_messages_wait_for_a_worker_also_over_a_restart(self, start: Callable[..., Serve]) -> None:
        service = start(REPLY_DEADLINE_SECONDS="0.3", SHUTDOWN_GRACE_SECONDS="60")
        agent_id = stream_agent(service)
        sessions = [service.create(agentId=agent_id)["sessionId"] for _ in range(2)]
        for session_id, content in itertools.product(sessions, ("one", "two")):
            request = {"content": content, "transport": "http"}
            answer = service.http.post(f"{service.url}/{session_id}/messages", json=request, timeout=10)
            assert (answer.status_code, answer.json()["code"]) == (504, "AGENT_REPLY_TIMEOUT")
            assert answer.json()["details"]["messageId"] == history(service, session_id)[-1].message_id
        # The grace is longer than `stop` waits: nobody has anything to finish.
        assert service.stop() == 0
        service = start("--no-rest")
        for session_id in sessions:
            send(service, session_id, "three")
        taken: dict[str, list[str]] = {session_id: [] for session_id in sessions}
        with Worker(service.channel, agent_id, max_deliveries=2) as worker:
            accepted = 0
            while accepted < 6:
                kind, value = worker.told()
                if kind == "accepted":
                    accepted += 1
                    continue
                assert (kind, value.attempt) == ("delivery", 1)
                taken[value.session.session_id].append(value.message.content)
                worker.reply(value, value.message.content.upper())
        for session_id in sessions:
            assert taken[session_id] == ["one", "two", "three"]
            assert exchanged(service, session_id, 3) == [("one", "ONE"), ("two", "TWO"), ("three", "THREE")]


class TestShutdown:
    def test_the_reply_to_what_a_worker_has_in_hand_is_stored(
        self, start: Callable[..., Serve], tmp_path: Path
    ) -> None:
        service = start("--no-rest", SHUTDOWN_GRACE_SECONDS="60")
        agent_id = stream_agent(service)
        session_id = create(service, agent_id).session_id
        workers = Worker(service.channel, agent_id), Worker(service.channel, agent_id)
        told: queue.SimpleQueue[tuple[Worker, str, object]] = queue.SimpleQueue()
        for worker in workers:
            threading.Thread(target=read_all, args=(worker, told), daemon=True).start()
        for content in ("one", "two"):
            send(service, session_id, content)
        busy, kind, delivery = told.get(timeout=30)
        assert kind == "delivery"
        service.process.terminate()
        until(lambda: refuses(service), "the end of service")
        busy.reply(delivery, "ONE")
        found = [told.get(timeout=30)[:2] for _ in range(3)]
        assert [kind for who, kind in found if who is busy] == ["accepted", "UNAVAILABLE"]
        assert [kind for who, kind in found if who is not busy] == ["UNAVAILABLE"]
        assert ended(service) == 0, service.log()
        assert "Traceback" not in service.log()
        service = start("--no-rest")
        with Worker(service.channel, agent_id) as worker:
            worker.answer(worker.next(), "TWO")
        assert exchanged(service, session_id, 2) == [("one", "ONE"), ("two", "TWO")]


def refuses(service: Serve) -> bool:
    """Whether a service takes no new calls any more."""
    try:
        service.agents.ListAgents(pb.ListAgentsRequest(), timeout=10)
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.UNAVAILABLE
    return False


def read_all(worker: Worker, told: "queue.SimpleQueue[tuple[Worker, str, object]]") -> None:
    """Reads what a worker is told, to the end of its stream, which comes as the name of its status."""
    try:
        while True:
            told.put((worker, *worker.told()))
    except grpc.RpcError as error:
        told.put((worker, error.code().name, error))
