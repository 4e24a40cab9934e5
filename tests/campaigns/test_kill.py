"""A service that is killed or ended under load loses nothing that it acknowledged."""

import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import grpc
import pytest
import requests

from eliza.sessions import values
from eliza.sessions.v1 import message_pb2, session_pb2
from eliza.sessions.v1 import message_service_pb2 as messages_pb
from eliza.sessions.v1 import session_service_pb2 as sessions_pb
from tests.support.clients import history
from tests.support.service import ECHO, USER, Serve, Start
from tests.support.stores import execute, find_problems
from tests.support.waiting import until

SENDERS = 64
SESSIONS = 8
GIVE_UP_SECONDS = 60
"""After which a condition is given up; far above what it takes."""


@dataclass
class Acknowledged:
    """What the service said is done, over all its lives."""

    messages: dict[str, dict[str, messages_pb.SendMessageResponse]] = field(default_factory=dict)
    """By session, then by content."""
    created: dict[str, session_pb2.Session] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    in_doubt: set[str] = field(default_factory=set)
    """Contents that were sent and not answered, and sessions whose deletion was not."""
    kept_alive: dict[str, session_pb2.Session] = field(default_factory=dict)
    """By session, as the latest heartbeat, renewal or change of the timeout left it that was answered."""
    unanswered: Counter[str] = field(default_factory=Counter)
    """By session, how many such calls were sent since."""
    calls: int = 0
    reached: threading.Condition = field(default_factory=threading.Condition)

    def count(self) -> None:
        with self.reached:
            self.calls += 1
            self.reached.notify_all()

    def wait_for(self, calls: int) -> None:
        with self.reached:
            assert self.reached.wait_for(lambda: self.calls >= calls, timeout=120), (
                f"{self.calls} calls of {calls} were answered"
            )


class Load:
    """Callers that go on until the service is taken from them. What fails earlier is an error of the test."""

    def __init__(self, service: Serve, done: Acknowledged, mark: str) -> None:
        self._service = service
        self._done = done
        self._mark = mark
        self._ending = threading.Event()
        self.too_early: list[BaseException] = []
        self.statuses: Counter[object] = Counter()

    def run(
        self, chats: list[str], idle: list[str], end: Callable[[], None], calls: int, *, rest: bool = False
    ) -> None:
        """Loads the service, ends it when so many calls more were answered, and waits for the callers."""
        callers = [self._sender(chats[n % len(chats)], n) for n in range(SENDERS)]
        callers += [self._creator(), self._creator(), *map(self._keeper, idle)]
        if rest:
            callers += [self._rest_sender(chats[n % len(chats)], n) for n in range(4)]
        with ThreadPoolExecutor(len(callers)) as pool:
            for caller in callers:
                pool.submit(self._drive, caller)
            try:
                self._done.wait_for(self._done.calls + calls)
            finally:
                self._ending.set()
                end()
        assert self.too_early == []

    def _drive(self, caller: Iterator[None]) -> None:
        """One call after the other, until one fails."""
        try:
            for _ in caller:
                self._done.count()
        except (grpc.RpcError, requests.RequestException, ConnectionError) as error:
            self.statuses[error.code() if isinstance(error, grpc.RpcError) else type(error)] += 1
            if not self._ending.is_set():
                self.too_early.append(error)
        except BaseException as error:  # noqa: BLE001 - reported by the test's own thread
            self.too_early.append(error)

    def _sender(self, session_id: str, number: int) -> Iterator[None]:
        known = self._done.messages.setdefault(session_id, {})
        for n in range(10**6):
            content = f"{self._mark}-{number}-{n}"
            self._done.in_doubt.add(content)
            request = messages_pb.SendMessageRequest(session_id=session_id, content=content)
            known[content] = self._service.messages.SendMessage(request, timeout=60)
            self._done.in_doubt.discard(content)
            yield

    def _rest_sender(self, session_id: str, number: int) -> Iterator[None]:
        known = self._done.messages.setdefault(session_id, {})
        with requests.Session() as http:
            for n in range(10**6):
                content = f"{self._mark}-rest-{number}-{n}"
                self._done.in_doubt.add(content)
                response = http.post(
                    f"{self._service.url}/{session_id}/messages", json={"content": content}, timeout=60
                )
                if response.status_code != 201:
                    raise requests.HTTPError(f"{response.status_code} {response.text}", response=response)
                body = response.json()
                known[content] = messages_pb.SendMessageResponse(
                    message=message_pb2.Message(message_id=body["id"], content=content)
                )
                self._done.in_doubt.discard(content)
                yield

    def _creator(self) -> Iterator[None]:
        """Creates sessions and deletes every second one."""
        for n in range(10**6):
            request = sessions_pb.CreateSessionRequest(agent_id=ECHO, user_id=USER)
            request.metadata.CopyFrom(values.struct({"mark": self._mark, "n": n}))
            created = self._service.sessions.CreateSession(request, timeout=60).session
            self._done.created[created.session_id] = created
            yield
            if n % 2:
                self._done.in_doubt.add(created.session_id)
                self._service.sessions.DeleteSession(
                    sessions_pb.DeleteSessionRequest(session_id=created.session_id), timeout=60
                )
                self._done.deleted.add(created.session_id)
                self._done.in_doubt.discard(created.session_id)
                yield

    def _keeper(self, session_id: str) -> Iterator[None]:
        """Heartbeats, renewals and changes of the timeout, one after the other, on a session of its own."""
        sessions = self._service.sessions
        for n in range(10**6):
            self._done.unanswered[session_id] += 1
            match n % 3:
                case 0:
                    answer = sessions.SendHeartbeat(
                        sessions_pb.SendHeartbeatRequest(session_id=session_id), timeout=60
                    )
                case 1:
                    answer = sessions.RenewSession(
                        sessions_pb.RenewSessionRequest(session_id=session_id), timeout=60
                    )
                case _:
                    change = sessions_pb.UpdateTimeoutRequest(session_id=session_id)
                    change.timeout_config.timeout_minutes = 30 + n % 100
                    answer = sessions.UpdateTimeout(change, timeout=60)
            self._done.kept_alive[session_id] = answer.session
            self._done.unanswered[session_id] = 0
            yield


def create_many(service: Serve, count: int) -> list[str]:
    request = sessions_pb.CreateSessionRequest(agent_id=ECHO, user_id=USER)
    return [service.sessions.CreateSession(request, timeout=30).session.session_id for _ in range(count)]


def read_session(service: Serve, session_id: str) -> session_pb2.Session | None:
    try:
        return service.sessions.GetSession(
            sessions_pb.GetSessionRequest(session_id=session_id), timeout=30
        ).session
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return None
        raise


def all_answered(found: list[message_pb2.Message]) -> bool:
    """Whether each of the user's messages has a reply, in order; so has each of none."""
    answers = [message.reply_to_sequence for message in found if message.is_agent]
    return answers == [message.sequence for message in found if not message.is_agent]


def check(service: Serve, done: Acknowledged) -> None:
    """Everything acknowledged is there, exactly once; and nothing but that and what was in doubt."""
    for session_id, acknowledged in done.messages.items():
        check_chat(service, session_id, acknowledged, done.in_doubt)
    for session_id, known in done.kept_alive.items():
        kept = read_session(service, session_id)
        assert kept is not None
        unanswered = range(done.unanswered[session_id] + 1)
        assert kept.last_sequence - known.last_sequence in unanswered, (
            "more was done than was asked for, or less than was answered"
        )
        if kept.last_sequence == known.last_sequence:
            assert (kept.expires_at, kept.renewal_count, kept.timeout_config) == (
                known.expires_at,
                known.renewal_count,
                known.timeout_config,
            )
        else:
            assert kept.renewal_count - known.renewal_count in unanswered
    for session_id, created in done.created.items():
        stored = read_session(service, session_id)
        if session_id in done.deleted:
            assert stored is None
        elif session_id not in done.in_doubt:
            assert stored is not None
            assert (stored.expires_at, stored.created_at, stored.metadata) == (
                created.expires_at,
                created.created_at,
                created.metadata,
            )


def check_chat(
    service: Serve,
    session_id: str,
    acknowledged: dict[str, messages_pb.SendMessageResponse],
    in_doubt: set[str],
) -> None:
    # What was open at the end of the last process is answered by this one: every message gets its reply.
    until(lambda: all_answered(history(service, session_id)), "a reply to every message")
    found = history(service, session_id)
    session = read_session(service, session_id)
    assert session is not None
    assert [message.sequence for message in found] == list(range(1, session.last_sequence + 1))
    times = [values.ms_floor(message.created_at) for message in found]
    assert all(later > earlier for earlier, later in pairwise(times))
    assert len({message.message_id for message in found}) == len(found)
    of_user = {message.content: message for message in found if not message.is_agent}
    assert len(of_user) == sum(not message.is_agent for message in found), "a message is there twice"
    assert acknowledged.keys() <= of_user.keys(), "an acknowledged message is lost"
    assert of_user.keys() <= acknowledged.keys() | in_doubt, "a message is there that nobody sent"
    for content, answer in acknowledged.items():
        assert of_user[content].message_id == answer.message.message_id
        if answer.HasField("session_status"):
            assert of_user[content] == answer.message
    # Every message of the user renews, so the latest one says how the session stands.
    assert session.renewal_count == len(of_user)
    latest = [acknowledged.get(message.content) for message in found if not message.is_agent][-1:]
    for answer in latest:
        if answer is not None and answer.HasField("session_status"):
            assert (session.expires_at, session.renewal_count) == (
                answer.session_status.expires_at,
                answer.session_status.renewal_count,
            )
    for answer in acknowledged.values():
        assert values.ms_floor(session.expires_at) >= values.ms_floor(answer.session_status.expires_at)


def check_store(directory: Path) -> None:
    """The database is sound, and every log is without a gap."""
    assert find_problems(directory) == []
    gaps = execute(
        directory,
        "SELECT id, last_sequence FROM sessions LEFT JOIN log ON session_id = id GROUP BY id "
        "HAVING count(sequence) <> last_sequence "
        "OR (last_sequence > 0 AND (min(sequence) <> 1 OR max(sequence) <> last_sequence))",
    )
    assert gaps == []


@pytest.mark.parametrize("rounds", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_a_kill_loses_nothing_that_was_acknowledged(start: Start, tmp_path: Path, rounds: int) -> None:
    seed = int(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(10**9))
    print(f"KILL_SEED={seed}")
    choose, done = random.Random(seed), Acknowledged()
    service = start("--no-rest")
    chats, idle = create_many(service, SESSIONS), create_many(service, 2)
    for number in range(rounds):
        calls = choose.choice([1, choose.randrange(2, SENDERS), choose.randrange(SENDERS, 2000)])
        print(f"round {number}: killed after {calls} more answers")
        Load(service, done, f"{number}").run(chats, idle, service.process.kill, calls)
        service.kill()
        service = start("--no-rest")
        check(service, done)
    assert "Traceback" not in service.log()
    assert service.stop() == 0
    check_store(tmp_path)


@pytest.mark.slow
def test_an_end_under_load_loses_nothing_that_was_acknowledged(start: Start, tmp_path: Path) -> None:
    done = Acknowledged()
    service = start(SHUTDOWN_GRACE_SECONDS="20")
    chats, idle = create_many(service, SESSIONS), create_many(service, 2)
    statuses: list[int] = []
    Load(service, done, "term").run(chats, idle, lambda: statuses.append(end(service)), 1500, rest=True)
    service.kill()
    assert statuses == [0]
    log = service.log()
    assert "Traceback" not in log
    assert "error" not in log.lower(), log
    service = start("--no-rest")
    check(service, done)
    for session_id in chats:
        found = history(service, session_id)
        assert 2 * sum(message.is_agent for message in found) == len(found), (
            "replies were under way and were waited for"
        )
    assert service.stop() == 0
    check_store(tmp_path)


def test_what_a_service_that_ends_refuses_is_unavailable(start: Start) -> None:
    """So that clients, which try again what is UNAVAILABLE and nothing else, try it again."""
    service = start("--no-rest")
    load = Load(service, Acknowledged(), "term")
    load.run(create_many(service, SESSIONS), create_many(service, 2), lambda: end(service), 500)
    service.kill()
    assert set(load.statuses) == {grpc.StatusCode.UNAVAILABLE}


def end(service: Serve) -> int:
    """SIGTERM; the exit status."""
    service.process.terminate()
    return service.process.wait(90)


def test_a_successor_of_a_service_that_is_killed_has_its_address_at_once(start: Start) -> None:
    service = start()
    # A connection that stays open, as clients have them, must not keep it.
    created = service.create()
    service.process.kill()
    service.process.wait()
    successor = start(REST_ADDRESS=service.rest)
    assert successor.rest == service.rest
    assert (
        successor.http.get(f"{successor.url}/{created['sessionId']}", timeout=10).json()["expiresAt"]
        == created["expiresAt"]
    )
    assert successor.stop() == 0
    service.kill()
