"""`eliza-sessions agents chat`: talking to an agent, on a terminal and through pipes."""

import subprocess

import pytest

from eliza.sessions.v1.session_service_pb2 import DeleteSessionRequest, ListSessionsRequest
from tests.service.agents.worker import Worker, stream_agent
from tests.support.clients import Ended, command
from tests.support.service import ECHO, USER, Serve, Start, environment
from tests.support.terminal import Terminal
from tests.support.waiting import until


def chat(service: Serve, agent_id: str, said: bytes, *options: str) -> Ended:
    """Talks through pipes."""
    line = command("agents", "--server", service.grpc, "chat", agent_id, *options)
    done = subprocess.run(line, input=said, env=environment(), capture_output=True, timeout=60, check=False)
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def sessions(service: Serve, agent_id: str) -> int:
    """How many sessions the agent has."""
    return service.sessions.ListSessions(ListSessionsRequest(agent_id=agent_id), timeout=10).total_size


def test_a_conversation_through_pipes_prints_the_replies(plain: Serve) -> None:
    before = sessions(plain, ECHO)
    said = "Hello there!\n\n  two  spaces \r\nüñí 🙂\nno line feed".encode()
    done = chat(plain, ECHO, said)
    assert done == (0, "Hello there!\n  two  spaces \nüñí 🙂\nno line feed\n", "")
    assert chat(plain, ECHO, b"") == (0, "", "")
    assert sessions(plain, ECHO) == before


def test_who_talks_may_be_named(plain: Serve) -> None:
    agent_id = stream_agent(plain)
    with (
        Worker(plain.channel, agent_id) as worker,
        Terminal("agents", "--server", plain.grpc, "chat", agent_id, "--user", USER) as talk,
    ):
        talk.expect("> ")
        talk.type("hi\n")
        delivery = worker.next()
        assert (delivery.session.user_id, delivery.message.content) == (USER, "hi")
    wrong = chat(plain, agent_id, b"hi\n", "--user", "me")
    assert (wrong.status, wrong.out) == (1, "")
    assert "--user is not a UUID" in wrong.errors


def test_a_conversation_on_a_terminal_shows_the_replies(plain: Serve) -> None:
    agent_id = stream_agent(plain)
    with (
        Worker(plain.channel, agent_id) as worker,
        Terminal("agents", "--server", plain.grpc, "chat", agent_id) as talk,
    ):
        talk.expect("You talk to worked")
        talk.expect("> ")
        talk.type("one\n")
        delivery = worker.next()
        # Each piece is there before the next one is sent.
        worker.chunk(delivery, "The \x1b[31mfirst,")
        talk.expect("The  [31mfirst,")
        worker.chunk(delivery, " the second")
        talk.expect(" the second")
        worker.answer(delivery, "The \x1b[31mfirst, the second, the end.")
        assert talk.expect(", the end.\n> ") == ""
        talk.type("two\n")
        delivery = worker.next()
        worker.chunk(delivery, "Something")
        talk.expect("Something")
        worker.answer(delivery, "Something" if delivery.attempt > 1 else "Else")
        assert talk.expect("Else\n> ") == "\n[that is taken back]\n"
        talk.type("\x04")
        assert talk.end() == 0
    assert sessions(plain, agent_id) == 0


def test_void_pieces_are_taken_back(start: Start) -> None:
    service = start("--no-rest", DELIVERY_ATTEMPTS="2", DELIVERY_BACKOFF_SECONDS="0.01")
    agent_id = stream_agent(service)
    with (
        Worker(service.channel, agent_id) as worker,
        Terminal("agents", "--server", service.grpc, "chat", agent_id) as talk,
    ):
        talk.expect("> ")
        talk.type("one\n")
        delivery = worker.next()
        worker.chunk(delivery, "Half a")
        talk.expect("Half a")
        worker.fail(delivery, "tripped")
        talk.expect("\n[that is taken back]\n")
        delivery = worker.next()
        worker.chunk(delivery, "Another ha")
        talk.expect("Another ha")
        worker.fail(delivery, "tripped again")
        talk.expect("\n[that is taken back]\n")
        assert "tripped again" in talk.expect("> ")
        talk.type("two\n")
        worker.answer(worker.next(), "A whole reply")
        talk.expect("A whole reply\n> ")
        talk.type("\x04")
        # One message got no reply.
        assert talk.end() == 1
    assert sessions(service, agent_id) == 0


def test_what_is_void_or_fails_is_not_in_the_output_of_a_pipe(start: Start) -> None:
    service = start("--no-rest", DELIVERY_ATTEMPTS="1")
    agent_id = stream_agent(service)
    line = command("agents", "--server", service.grpc, "chat", agent_id)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with (
        Worker(service.channel, agent_id) as worker,
        subprocess.Popen(line, env=environment(), **pipes) as talk,
    ):
        try:
            talk.stdin.write(b"one\ntwo\n\xff\n" + b"x" * 4001 + b"\nthree\n")
            talk.stdin.close()
            delivery = worker.next()
            worker.chunk(delivery, "Half a")
            worker.fail(delivery, "tripped")
            worker.answer(worker.next(), "TWO")
            # What cannot be sent is told of, and the conversation goes on.
            worker.answer(worker.next(), "THREE")
            out, errors = talk.stdout.read(), talk.stderr.read().decode()
        finally:
            talk.kill()
    assert (talk.returncode, out) == (1, b"TWO\nTHREE\n")
    words = (
        "no reply: The agent could not reply: tripped",
        "attempt 1: tripped",
        "not sent: the line is not UTF-8",
        "not sent: ",
    )
    assert [word for word in words if word not in errors] == []
    assert "Traceback" not in errors


def test_ctrl_c_ends_it_while_a_reply_is_awaited(plain: Serve) -> None:
    agent_id = stream_agent(plain)
    with Terminal("agents", "--server", plain.grpc, "chat", agent_id) as talk:
        talk.expect("[no worker of the agent is connected: messages wait until one is]")
        talk.expect("> ")
        with Worker(plain.channel, agent_id) as worker:
            talk.type("anybody?\n")
            worker.next()
            assert sessions(plain, agent_id) == 1
            talk.interrupt()
            assert talk.end() == 0
    assert sessions(plain, agent_id) == 0


@pytest.mark.parametrize("gone", ["session", "server"])
def test_a_conversation_that_cannot_go_on_ends_with_a_line(start: Start, gone: str) -> None:
    service = start("--no-rest")
    with Terminal("agents", "--server", service.grpc, "chat", ECHO) as talk:
        talk.expect("> ")
        if gone == "server":
            service.kill()
        else:
            (session,) = service.sessions.ListSessions(ListSessionsRequest(), timeout=10).sessions
            service.sessions.DeleteSession(DeleteSessionRequest(session_id=session.session_id), timeout=10)
        talk.type("still there?\n")
        talk.expect("Error: UNAVAILABLE" if gone == "server" else "Error: NOT_FOUND")
        assert talk.end() == 1


def test_the_session_is_gone_also_when_the_reader_of_the_pipe_is(plain: Serve) -> None:
    line = command("agents", "--server", plain.grpc, "chat", ECHO)
    before = sessions(plain, ECHO)
    with subprocess.Popen(
        line, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as talk:
        try:
            talk.stdout.close()
            talk.stdin.write(b"one\ntwo\n")
            talk.stdin.close()
            assert talk.wait(60) == 1
            assert talk.stderr.read() == b""
        finally:
            talk.kill()
    until(lambda: sessions(plain, ECHO) == before, "the end of the session")
