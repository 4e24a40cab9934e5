"""What takes time from everybody: large values, old and large tables, agents and files that hang."""

import base64
import os
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import grpc
from google.protobuf.struct_pb2 import ListValue, Value

from eliza.sessions.v1 import agent_pb2, agent_service_pb2, message_service_pb2, session_service_pb2
from tests.campaigns.hostile.playing import CALL_SECONDS, SEND, Playing
from tests.campaigns.hostile.rows_of_memory import AGENT_SERVICE, CONVERSE, SESSION_SERVICE
from tests.campaigns.hostile.stores import CROWDED, DOOMED, DOOMED_COUNT, LONG
from tests.campaigns.http_attack import SESSIONS
from tests.contract.raw_http import request
from tests.service.agents import webhook_server
from tests.service.agents.worker import Worker, stream_agent
from tests.support.service import ECHO, USER, Serve

SECRETS: Final = "secrets"
"""The directory beside the store in which agents may have theirs."""
REPLY_SECONDS: Final = 20.0


def settings(service_directory: object) -> dict[str, str]:
    """What agents may have; everything else is as by default."""
    return {
        "AGENT_ALLOWED_HOSTS": "localhost",
        "AGENT_SECRETS": f"AGENT_SECRET_*,{service_directory}/{SECRETS}/*",
        "AGENT_SECRET_HOSTILE": base64.b64encode(b"a secret of the hostile campaign").decode(),
    }


class Followers:
    """Watchers of a session, half over gRPC and half over server-sent events, who read what comes and wait
    for a word in it.
    """

    def __init__(self, play: Playing, session_id: str, count: int) -> None:
        self._last = b""
        self.heard = 0
        self._heard_all = threading.Semaphore(0)
        self._count = count
        watch = session_service_pb2.WatchSessionRequest(session_id=session_id).SerializeToString()
        call = play.service.channel.unary_stream(f"{SESSION_SERVICE}WatchSession")
        events = request("GET", f"{SESSIONS}/{session_id}/events", headers=[("Accept", "text/event-stream")])
        self._threads = []
        for number in range(count):
            if number % 2:
                stream = call(watch, timeout=2 * CALL_SECONDS)
                play.held.callback(stream.cancel)
                read: Callable[[], bytes] = lambda stream=stream: next(stream)  # noqa: E731
            else:
                connection = play.connect(play.service.rest)
                connection.settimeout(2 * CALL_SECONDS)
                connection.sendall(events)
                read = lambda connection=connection: connection.recv(1 << 20)  # noqa: E731
            thread = threading.Thread(target=self._read, args=(read,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def wait_for(self, word: bytes, seconds: float) -> bool:
        """Whether all have heard the word by then."""
        self._last = word
        until_s = time.monotonic() + seconds
        return all(
            self._heard_all.acquire(timeout=max(0.0, until_s - time.monotonic())) for _ in range(self._count)
        )

    def expect(self, word: bytes) -> None:
        """The word that comes next."""
        self._last = word

    def _read(self, read: Callable[[], bytes]) -> None:
        tail = b""
        try:
            while piece := read():
                tail = tail[-100:] + piece
                if self._last and self._last in tail:
                    tail = b""
                    self.heard += 1
                    self._heard_all.release()
        except (grpc.RpcError, OSError, StopIteration):
            # The round is over, or the service has ended the stream, which whoever waits will miss.
            return


def many_values(play: Playing) -> None:
    """A message of very many values, with watchers over gRPC and HTTP."""
    session_id = play.service.create(
        agentId=play.once("agent", lambda: stream_agent(play.service, "nobodys"))
    )["sessionId"]
    followers = Followers(play, session_id, play.scaled(50, 6))
    for count in (20_000, 2_000, 2_000):
        attachments = ListValue(values=[Value(number_value=0)] * count)
        word = uuid.uuid4().hex
        followers.expect(word.encode())
        send = message_service_pb2.SendMessageRequest(
            session_id=session_id, content=word, attachments=attachments
        )
        sent = play.call(SEND, send.SerializeToString())
        play.answers[f"{sent} for {count:,} values"] += 1
        if sent == "OK":
            play.require(
                followers.wait_for(word.encode(), REPLY_SECONDS), "a watcher did not get the message"
            )


def long_conversation(play: Playing) -> None:
    """Conversations in a session of very many messages that are answered."""
    for number in range(play.scaled(50, 5)):
        ask = message_service_pb2.ConverseRequest(
            message=message_service_pb2.SendMessageRequest(session_id=LONG, content=f"message {number}")
        )
        play.answers[play.stream(CONVERSE, ask.SerializeToString(), CALL_SECONDS)] += 1
        if play.is_over():
            break
    play.require(set(play.answers) == {"OK"}, f"conversations failed: {dict(play.answers)}")


def long_lists(play: Playing) -> None:
    """Lists of all sessions, of a user's and of an agent's, and health, over gRPC and REST."""
    asked = session_service_pb2.ListSessionsRequest
    lists = [
        asked(page_size=100),
        asked(page_size=100, user_id=USER),
        asked(page_size=100, agent_id=ECHO),
        asked(page_size=100, agent_id=str(uuid.UUID(int=9))),
    ]
    jobs: list[Callable[[], str]] = [
        *(
            lambda one=one: play.call(f"{SESSION_SERVICE}ListSessions", one.SerializeToString())
            for one in lists
        ),
        lambda: play.call(f"{SESSION_SERVICE}GetServiceStatus", b""),
        lambda: play.rest("GET", ""),
        lambda: play.rest("GET", f"?userId={USER}&limit=100"),
        lambda: play.rest("GET", "/health"),
    ]
    chosen = [play.random.choice(jobs) for _ in range(play.scaled(80, 8))]
    play.at_once(lambda n: chosen[n](), len(chosen), workers=4)


def background_work(play: Playing) -> None:
    """Nothing but the start: the service has its work from there, while others call."""
    session_id = play.service.create()["sessionId"]
    until_s = time.monotonic() + 10 * play.size
    while time.monotonic() < until_s:
        play.answers[play.rest("POST", f"/{session_id}/heartbeat")] += 1
    play.require(set(play.answers) == {"200"}, f"a session cannot be used meanwhile: {dict(play.answers)}")


def large_deletion(play: Playing) -> None:
    """The deletion of a session that has very many entries, and writes to others meanwhile."""
    session_id = play.service.create()["sessionId"]
    doomed = play.once("doomed", lambda: [DOOMED.format(10 + number) for number in range(DOOMED_COUNT)])
    with ThreadPoolExecutor(1) as pool:
        deletion = pool.submit(play.rest, "DELETE", f"/{doomed.pop()}")
        while not deletion.done():
            play.answers[play.rest("POST", f"/{session_id}/heartbeat")] += 1
    play.answers[f"{deletion.result()} for the deletion"] += 1
    play.require(deletion.result() in ("200", "204"), f"the deletion has status {deletion.result()}")


def repeated_conversation(play: Playing) -> None:
    """A conversation that waits for its reply, behind very many entries, and is repeated again and again."""
    send = message_service_pb2.SendMessageRequest(
        session_id=CROWDED, content="anybody?", request_id=play.once("id", lambda: uuid.uuid4().hex)
    )
    ask = message_service_pb2.ConverseRequest(message=send).SerializeToString()
    play.at_once(lambda _: play.stream(CONVERSE, ask, 0.2), play.scaled(200, 20))
    play.require(
        set(play.answers) <= {"DEADLINE_EXCEEDED"}, f"the conversation does not wait: {dict(play.answers)}"
    )


def many_chunks(play: Playing) -> None:
    """A reply of 4,000 characters that comes word by word, with watchers over gRPC and HTTP."""
    agent_id = play.once("agent", lambda: stream_agent(play.service))
    session_id = play.service.create(agentId=agent_id)["sessionId"]
    followers = Followers(play, session_id, play.scaled(100, 6))
    word = uuid.uuid4().hex
    followers.expect(word.encode())
    with Worker(play.service.channel, agent_id) as worker:
        play.answers[play.rest("POST", f"/{session_id}/messages", b'{"content": "Tell me."}')] += 1
        delivery = worker.next()
        for _ in range(800):
            worker.chunk(delivery, "word ")
        worker.answer(delivery, "word " * 792 + word)
    play.require(followers.wait_for(word.encode(), REPLY_SECONDS), "a watcher did not get the reply")


PROMPTED: Final = 100
"""Agents with prompts as long as they may be: 9.6 MB."""


def long_prompted_agents(play: Playing) -> None:
    """Registers agents whose prompts are as long as they may be."""

    def register(number: int) -> str:
        settings = agent_pb2.OpenAiSettings(
            base_url="https://llm.example/v1", model="m", system_prompt="語" * 32_768
        )
        agent = agent_pb2.Agent(name=f"agent {number}", kind=agent_pb2.AGENT_KIND_OPENAI, openai=settings)
        return play.call(
            f"{AGENT_SERVICE}CreateAgent",
            agent_service_pb2.CreateAgentRequest(agent=agent).SerializeToString(),
        )

    play.at_once(register, PROMPTED)
    assert play.answers == {"OK": PROMPTED}, play.answers


def long_prompts(play: Playing) -> None:
    """The list of agents with long prompts, read to its end by a client with gRPC's default
    bound of 4 MiB.
    """
    for _ in range(play.scaled(10, 2)):
        token, listed = "", 0
        while True:
            page = agent_service_pb2.ListAgentsRequest(page_size=1000, page_token=token)
            answer, content = play.called(f"{AGENT_SERVICE}ListAgents", page.SerializeToString())
            play.answers[answer] += 1
            response = agent_service_pb2.ListAgentsResponse.FromString(content)
            listed += sum(agent.name.startswith("agent ") for agent in response.agents)
            token = response.next_page_token
            if not token or answer != "OK" or play.is_over():
                break
        play.require(listed == PROMPTED, f"{listed} of {PROMPTED} agents are listed")


def _webhook(service: Serve, url: str) -> str:
    settings = agent_pb2.WebhookSettings(url=url, secret="env:AGENT_SECRET_HOSTILE", timeout_seconds=20)
    agent = agent_pb2.Agent(name="a webhook", kind=agent_pb2.AGENT_KIND_WEBHOOK, webhook=settings)
    return service.agents.CreateAgent(
        agent_service_pb2.CreateAgentRequest(agent=agent), timeout=CALL_SECONDS
    ).agent.agent_id


def hanging_names(play: Playing) -> None:
    """Messages to agents whose names never resolve, and some to an agent at another name, which must get its
    own.
    """
    server = play.held.enter_context(webhook_server.Server(webhook_server.reply("here I am")))
    lost = [_webhook(play.service, f"http://agent-{number}.hangs.test/") for number in range(4)]
    found = _webhook(play.service, f"http://localhost:{server.port}/")

    def send(agent_id: str) -> str:
        session_id = play.service.create(agentId=agent_id)["sessionId"]
        return play.rest("POST", f"/{session_id}/messages", b'{"content": "Are you there?"}')

    play.at_once(lambda n: send(lost[n % len(lost)]), play.scaled(100, 40))

    def converse(_: int) -> str:
        session_id = play.service.create(agentId=found)["sessionId"]
        ask = message_service_pb2.ConverseRequest(
            message=message_service_pb2.SendMessageRequest(session_id=session_id, content="hello")
        )
        return f"another agent {play.stream(CONVERSE, ask.SerializeToString(), REPLY_SECONDS)}"

    play.at_once(converse, 8)
    play.require(
        play.answers["another agent OK"] == 8, f"another agent's replies do not come: {dict(play.answers)}"
    )


def hanging_secrets(play: Playing) -> None:
    """Agents that are registered, changed and asked with a secret in a FIFO that nobody writes to, or in a
    device.
    """
    directory = play.service.log_path.parent / SECRETS
    directory.mkdir(exist_ok=True)
    fifo = directory / "fifo"
    if not fifo.exists():
        os.mkfifo(fifo)

    def register(number: int) -> str:
        settings = agent_pb2.WebhookSettings(url="https://agent.example/", secret=f"file:{fifo}")
        agent = agent_pb2.Agent(
            name=f"of a FIFO {number}", kind=agent_pb2.AGENT_KIND_WEBHOOK, webhook=settings
        )
        return play.call(
            f"{AGENT_SERVICE}CreateAgent",
            agent_service_pb2.CreateAgentRequest(agent=agent).SerializeToString(),
        )

    play.at_once(register, play.scaled(100, 20))
    play.require(
        set(play.answers) <= {"INVALID_ARGUMENT"}, f"a FIFO is taken for a secret: {dict(play.answers)}"
    )
