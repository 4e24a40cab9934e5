"""Sessions for loads, and the wait for what loads have set going."""

import time
from typing import Final

import psutil

from eliza.sessions import values
from eliza.sessions.v1 import message_service_pb2, session_service_pb2
from tests.campaigns.load.h2load import Calls
from tests.campaigns.load.subjects import cpu_seconds
from tests.campaigns.load.wrk import Answers
from tests.support.service import ECHO, USER, Serve

CONTENT: Final = "How do I reset my password?"
METADATA: Final = {
    "plan": "pro",
    "browser": {"name": "Firefox", "version": [128, 0.5]},
    "tags": ["a", "b", "c"],
    "beta": True,
}
RICH_USER: Final = "22222222-2222-4222-8222-222222222222"
WAIT_SECONDS: Final = 60


def create(
    service: Serve, count: int, *, agent_id: str = ECHO, user_id: str = USER, rich: bool = False
) -> list[str]:
    """Ids of new sessions."""
    request = session_service_pb2.CreateSessionRequest(agent_id=agent_id, user_id=user_id)
    if rich:
        request.metadata.CopyFrom(values.struct(METADATA))
    return [service.sessions.CreateSession(request, timeout=30).session.session_id for _ in range(count)]


def wait_for_replies(service: Serve, ids: list[str]) -> None:
    """Sends one more message into each session and waits until all are answered: an agent is asked in the
    order of a session's messages.
    """
    give_up = time.monotonic() + WAIT_SECONDS
    requests = [message_service_pb2.SendMessageRequest(session_id=one, content=CONTENT) for one in ids]
    last = {
        one.session_id: service.messages.SendMessage(one, timeout=30).message.sequence for one in requests
    }
    for session_id, sequence in last.items():
        newest = message_service_pb2.ListMessagesRequest(session_id=session_id, page_size=1)
        while service.messages.ListMessages(newest, timeout=30).messages[0].reply_to_sequence != sequence:
            if time.monotonic() > give_up:
                raise TimeoutError(f"session {session_id} has no reply after {WAIT_SECONDS} s")
            time.sleep(0.01)


def settle(process: psutil.Process, load: Answers | Calls, service: Serve, ids: list[str]) -> None:
    """Waits for the replies that a load has set going: their time, their CPU time, and the last messages, are
    the load's.
    """
    before, begun = cpu_seconds(process), time.perf_counter()
    wait_for_replies(service, ids)
    spent_us = load.cpu_us * load.done + (cpu_seconds(process) - before) * 1e6
    load.seconds += time.perf_counter() - begun
    load.done += len(ids)
    load.cpu_us = spent_us / load.done
