"""Workers of the Python client, against the real service and one that loses things."""

import asyncio
import logging
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from eliza.sessions.v1 import agent_pb2
from eliza.sessions.v1 import agent_service_pb2 as pb
from eliza_sessions_client import AgentError, Client, Reply, Turn, agent, errors, run, to_dict
from tests.service.agents.worker import stream_agent
from tests.service.python_client.working import working
from tests.support.realtime.programs import free_address
from tests.support.service import ECHO, UNKNOWN, USER, Serve, Start
from tests.support.waiting import until

ROOT = Path(__file__).parents[3]


@pytest.fixture
def client(service: Serve) -> Iterator[Client]:
    with Client(service.grpc) as made:
        yield made


def failure(service: Serve, agent_id: str) -> agent_pb2.DeliveryFailure:
    """The agent's last failure, once there is one."""
    request = pb.GetAgentRequest(agent_id=agent_id, view=agent_pb2.AGENT_VIEW_STATUS)

    def found() -> agent_pb2.DeliveryFailure | None:
        status = service.agents.GetAgent(request, timeout=10).agent.status
        return status.last_failure if status.HasField("last_failure") else None

    return until(found, "the failure")


def test_it_answers_in_pieces_with_all_parts_of_a_reply(service: Serve, client: Client) -> None:
    agent_id = stream_agent(service)

    @agent(agent_id, history_messages=10)
    async def reply(turn: Turn) -> AsyncIterator[str | Reply]:
        yield f"After {len(turn.history)}, "
        yield "\ud83d"
        yield f"\ude00 {turn.text} {turn.metadata['plan']}"
        yield Reply(metadata={"a": 1}, attachments=[{"b": 2}], thought="hm", actions=["WAVE"])

    session_id = client.create(agent_id, USER, metadata={"plan": "free"}).session_id
    with working(reply, service.grpc):
        *parts, whole = client.converse(session_id, "Hello!", metadata={"plan": "admin"})
        assert "".join(part.chunk for part in parts[1:]) == whole.content == "After 0, 😀 Hello! free"
        assert client.send_and_wait(session_id, "Bye!").content == "After 2, 😀 Bye! free"
    assert (to_dict(whole.metadata)["a"], whole.thought, list(whole.actions)) == (1, "hm", ["WAVE"])


def test_an_exception_is_told_to_nobody_but_the_log(
    service: Serve, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    agent_id = stream_agent(service)

    @agent(agent_id)
    async def reply(turn: Turn) -> str:
        if turn.attempt == 1:
            raise LookupError("the password is hunter2")
        return "at last"

    session_id = client.create(agent_id, USER).session_id
    with caplog.at_level(logging.ERROR, "eliza_sessions_client"), working(reply, service.grpc):
        client.send(session_id, "Hello?")
        found = failure(service, agent_id)
    assert (found.reason, found.final) == ("the agent could not answer", False)
    assert "hunter2" not in str(found)
    assert "LookupError: the password is hunter2" in caplog.text
    assert session_id in caplog.text


def test_an_agent_that_something_else_cancels_has_failed(service: Serve, client: Client) -> None:
    agent_id = stream_agent(service)

    @agent(agent_id)
    async def reply(turn: Turn) -> str:
        if turn.attempt == 1:
            raise asyncio.CancelledError
        return "at last"

    client.send(client.create(agent_id, USER).session_id, "Hello?")
    with working(reply, service.grpc):
        assert failure(service, agent_id).reason == "the agent could not answer"


def test_an_agent_may_say_why_and_that_it_is_final(service: Serve, client: Client) -> None:
    agent_id = stream_agent(service)

    @agent(agent_id)
    async def reply(turn: Turn) -> AsyncIterator[str]:
        yield "Well, "
        raise AgentError("Not on Sundays \ud83d", final=True)

    session_id = client.create(agent_id, USER).session_id
    with working(reply, service.grpc), pytest.raises(errors.AgentReplyError) as raised:
        client.send_and_wait(session_id, "Hello?")
    assert raised.value.reason == "Not on Sundays \ufffd"


@pytest.mark.parametrize("text", ["", "x" * 100_001, "x" * 4_000_000])
def test_a_bad_reply_is_a_failure_and_the_worker_goes_on(service: Serve, client: Client, text: str) -> None:
    agent_id = stream_agent(service)

    @agent(agent_id)
    async def reply(turn: Turn) -> str:
        return text if turn.text == "bad" else turn.text

    session_id = client.create(agent_id, USER).session_id
    with working(reply, service.grpc):
        with pytest.raises(errors.AgentReplyError):
            client.send_and_wait(session_id, "bad")
        assert client.send_and_wait(session_id, "good").content == "good"


def test_it_answers_so_many_at_a_time_and_no_more(service: Serve, client: Client) -> None:
    agent_id, present, most, full = stream_agent(service), [], [], asyncio.Event()

    @agent(agent_id, concurrency=3)
    async def reply(turn: Turn) -> str:
        present.append(turn)
        most.append(len(present))
        if len(present) == 3:
            full.set()
        await full.wait()
        present.remove(turn)
        return turn.text

    sessions = [client.create(agent_id, USER).session_id for _ in range(9)]
    for session_id in sessions:
        client.send(session_id, "Hello!")
    with working(reply, service.grpc):
        until(lambda: all(len(list(client.messages(one))) == 2 for one in sessions), "all replies")
    assert max(most) == 3


def test_an_answer_that_is_wanted_no_longer_is_cancelled(service: Serve, client: Client) -> None:
    agent_id, seen = stream_agent(service), queue.SimpleQueue[str]()

    @agent(agent_id)
    async def reply(turn: Turn) -> AsyncIterator[str]:
        try:
            seen.put("begun")
            yield "Well"
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            seen.put("cancelled")
            raise

    session_id = client.create(agent_id, USER).session_id
    with working(reply, service.grpc):
        client.send(session_id, "Hello?")
        assert seen.get(timeout=30) == "begun"
        client.delete(session_id)
        assert seen.get(timeout=30) == "cancelled"


def test_told_to_stop_it_ends_what_it_has_in_hand_and_takes_nothing_new(
    service: Serve, client: Client
) -> None:
    agent_id, begun, go_on = stream_agent(service), queue.SimpleQueue[str](), threading.Event()

    @agent(agent_id, concurrency=2)
    async def reply(turn: Turn) -> str:
        begun.put(turn.text)
        await asyncio.to_thread(go_on.wait, 60)
        return f"re: {turn.text}"

    first, second = (client.create(agent_id, USER).session_id for _ in range(2))
    with working(reply, service.grpc) as worker:
        client.send(first, "first")
        assert begun.get(timeout=30) == "first"
        worker.tell_to_stop()
        client.send(second, "second")
        # A message of the same session waits for the first one's reply.
        client.send(first, "third")
        go_on.set()
        worker.wait()
    assert [message.content for message in client.messages(first)][-1] == "first"
    assert "re: first" in {message.content for message in client.messages(first)}
    assert begun.empty()
    with working(reply, service.grpc):
        for session_id, text in ((second, "re: second"), (first, "re: third")):
            until(
                lambda one=session_id, said=text: (
                    said in {message.content for message in client.messages(one)}
                ),
                f"{text} by another worker",
            )


def test_at_its_time_it_leaves_the_rest_to_others(service: Serve, client: Client) -> None:
    agent_id, attempts = stream_agent(service), queue.SimpleQueue[int]()

    @agent(agent_id)
    async def reply(turn: Turn) -> str:
        attempts.put(turn.attempt)
        if attempts.qsize() == 1:
            await asyncio.sleep(600)
        return "at last"

    session_id = client.create(agent_id, USER).session_id
    with working(reply, service.grpc, drain_seconds=0.2) as worker:
        client.send(session_id, "Hello?")
        until(lambda: not attempts.empty(), "the beginning")
        worker.stop()
    with working(reply, service.grpc):
        until(lambda: len(list(client.messages(session_id))) == 2, "the reply")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_program_ends_at_a_signal_once_it_has_answered(
    service: Serve, client: Client, tmp_path: Path, number: int
) -> None:
    agent_id = stream_agent(service)
    program = tmp_path / "program.py"
    program.write_text(
        "import asyncio, sys\n"
        "from eliza_sessions_client import agent, run\n"
        "@agent(sys.argv[1])\n"
        "async def reply(turn):\n"
        "    print('begun', flush=True)\n"
        "    await asyncio.sleep(1)\n"
        "    yield turn.text\n"
        "run(reply, address=sys.argv[2])\n"
    )
    session_id = client.create(agent_id, USER).session_id
    with subprocess.Popen(
        [sys.executable, program, agent_id, service.grpc],
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": f"{ROOT / 'clients/python/src'}"},
        text=True,
    ) as process:
        client.send(session_id, "Hello!")
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        assert process.wait(60) == 0
    assert [message.content for message in client.messages(session_id)] == ["Hello!", "Hello!"]


def test_what_another_connection_would_not_mend_ends_it(service: Serve) -> None:
    @agent(UNKNOWN)
    async def nobody(turn: Turn) -> str:
        return "?"

    @agent(ECHO)
    async def inside(turn: Turn) -> str:
        return "?"

    with pytest.raises(errors.AgentNotFoundError) as raised:
        run(nobody, address=service.grpc)
    assert raised.value.agent_id == UNKNOWN
    # Whichever comes first.
    with pytest.raises((errors.InvalidFieldError, errors.AgentNotFoundError)):
        run(inside, nobody, address=service.grpc)
    with pytest.raises(ValueError, match="at least one"):
        run()


def test_it_connects_again_after_the_service_was_away(start: Start) -> None:
    address = free_address()
    service = start("--no-rest", GRPC_ADDRESS=address)
    agent_id = stream_agent(service)

    @agent(agent_id)
    async def reply(turn: Turn) -> str:
        return f"re: {turn.text}"

    with Client(address) as client, working(reply, address):
        session_id = client.create(agent_id, USER).session_id
        assert client.send_and_wait(session_id, "one").content == "re: one"
        service.kill()
        start("--no-rest", GRPC_ADDRESS=address)
        assert client.send_and_wait(session_id, "two").content == "re: two"
