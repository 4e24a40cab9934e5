"""Watches of a service that is killed under load, and watches that nobody reads."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import grpc
import psutil
import pytest

from eliza.sessions.v1 import log_pb2, message_service_pb2, session_service_pb2
from tests.support.clients import create, send
from tests.support.realtime.streams import Watching
from tests.support.service import Serve, Start
from tests.support.waiting import until

SESSIONS = 25
SENDERS = 10
IN_FLIGHT = 64
SLICE = 500
BOUND_BYTES = 64 * 2**20
"""By how much a service may grow for readers that do not read: a fraction of what they have not read, and of
what is said meanwhile.
"""


class Follower:
    """Follows one session over the lives of the service, from the last entry that it has."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.entries: list[log_pb2.LogEntry] = []

    def follow(self, service: Serve) -> None:
        """Reads until the service is gone."""
        request = session_service_pb2.WatchSessionRequest(
            session_id=self.session_id, after_sequence=self.entries[-1].sequence if self.entries else 0
        )
        try:
            for response in service.sessions.WatchSession(request):
                if response.HasField("entry"):
                    self.entries.append(response.entry)
        except grpc.RpcError as error:
            # CANCELLED: by the harness, which closes the channel of a service that has ended.
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise


def talk(service: Serve, ids: list[str], number: int) -> None:
    """Sends to all sessions in turns, and renews them, until the service is gone."""
    for turn, session_id in enumerate(
        itertools.islice(itertools.cycle(ids), number * len(ids) // SENDERS, None)
    ):
        try:
            send(service, session_id, f"message {turn} of {number}")
            if turn % 5 == 0:
                service.sessions.RenewSession(
                    session_service_pb2.RenewSessionRequest(session_id=session_id), timeout=10
                )
        except grpc.RpcError:
            return


def last_sequence(service: Serve, session_id: str) -> int:
    request = session_service_pb2.GetSessionRequest(session_id=session_id)
    return service.sessions.GetSession(request, timeout=10).session.last_sequence


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_watchers_resume_after_a_kill(start: Start, kills: int) -> None:
    service = start("--no-rest")
    ids = [create(service).session_id for _ in range(SESSIONS)]
    followers = [Follower(session_id) for session_id in ids]

    def told() -> int:
        return sum(len(follower.entries) for follower in followers)

    for _ in range(kills):
        with ThreadPoolExecutor(SESSIONS + SENDERS) as pool:
            begun = told()
            following = [pool.submit(follower.follow, service) for follower in followers]
            talking = [pool.submit(talk, service, ids, number) for number in range(SENDERS)]
            try:
                until(lambda begun=begun: told() > begun + 500, "hundreds of entries", 60)
            finally:
                # Only the process: a call on a channel that is closed is a ValueError in whoever makes it.
                service.process.kill()
            for future in (*following, *talking):
                future.result()
        service.kill()
        service = start("--no-rest")
    with ThreadPoolExecutor(SESSIONS) as pool:
        following = [pool.submit(follower.follow, service) for follower in followers]
        try:
            until(
                lambda: all(
                    len(follower.entries) >= last_sequence(service, follower.session_id)
                    for follower in followers
                ),
                "the rest",
                60,
            )
            for follower in followers:
                with closing(Watching(service, follower.session_id)) as again:
                    stored = again.entries(last_sequence(service, follower.session_id))
                assert [entry.sequence for entry in stored] == list(range(1, len(stored) + 1))
                assert follower.entries == stored
        finally:
            status = service.stop()
        for future in following:
            future.result()
    assert status == 0
    assert "Traceback" not in service.log()


def say(service: Serve, session_id: str, messages: int) -> None:
    """Sends so many messages of 12 KB, some of them in flight at a time."""
    room = threading.Semaphore(IN_FLIGHT)
    request = message_service_pb2.SendMessageRequest(session_id=session_id, content="€" * 4000)
    failed: list[grpc.Future] = []

    def done(call: grpc.Future) -> None:
        room.release()
        if call.code() is not grpc.StatusCode.OK:
            failed.append(call)

    for _ in range(messages):
        room.acquire()
        service.messages.SendMessage.future(request, timeout=60).add_done_callback(done)
    for _ in range(IN_FLIGHT):
        room.acquire()
    assert failed == []


def talk_through(service: Serve, session_id: str, messages: int) -> None:
    """Sends so many messages and waits for the replies, a slice at a time: replies that are awaited are
    memory, too.
    """
    for begin in range(0, messages, SLICE):
        count = min(SLICE, messages - begin)
        wanted = last_sequence(service, session_id) + 2 * count
        say(service, session_id, count)
        until(lambda wanted=wanted: last_sequence(service, session_id) == wanted, "the replies", 60)


@pytest.mark.parametrize(
    ("entries", "watchers"), [(700, 6), pytest.param(100_000, 2, marks=pytest.mark.slow)]
)
def test_a_watcher_that_stops_reading_costs_little_and_loses_nothing(
    start: Start, entries: int, watchers: int
) -> None:
    service = start("--no-rest")
    warm, session_id = create(service).session_id, create(service).session_id
    # The caches fill first, so that what grows afterwards is for the readers.
    talk_through(service, warm, max(350, entries // 10))
    process = psutil.Process(service.process.pid)
    requests = [session_service_pb2.WatchSessionRequest(session_id=session_id) for _ in range(watchers)]
    send(service, session_id, "hello")
    stalled = [service.sessions.WatchSession(request) for request in requests]
    for call in stalled:
        assert next(call).entry.sequence == 1
    until(lambda: last_sequence(service, session_id) == 2, "the reply")
    before = process.memory_info().rss
    talk_through(service, session_id, (entries - 2) // 2)
    grown = process.memory_info().rss - before
    print(
        f"RSS has grown by {grown / 2**20:.1f} MiB while {entries} entries passed {watchers} watchers that "
        "do not read"
    )
    assert grown < BOUND_BYTES
    for call in stalled:
        sequences = (response.entry.sequence for response in call if response.HasField("entry"))
        assert list(itertools.islice(sequences, entries - 1)) == list(range(2, entries + 1))
        call.cancel()
    assert service.stop() == 0
    assert "Traceback" not in service.log()
