"""Workers that are killed at random, together with their service: each message gets one reply, in order, and
nothing is left open.
"""

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from eliza.sessions.v1 import message_service_pb2_grpc
from eliza.sessions.v1.message_service_pb2 import SendMessageRequest
from tests.campaigns.test_kill import GIVE_UP_SECONDS, check_store
from tests.service.agents.worker import Worker, stream_agent
from tests.support.clients import create, history
from tests.support.service import Serve, Start
from tests.support.stores import execute
from tests.support.waiting import until

LEASE_SECONDS = 0.3
SETTINGS = {
    "DELIVERY_ATTEMPTS": "50",
    "DELIVERY_BACKOFF_SECONDS": "0.01",
    "DELIVERY_MAX_BACKOFF_SECONDS": "0.1",
    "DELIVERY_LEASE_SECONDS": str(LEASE_SECONDS),
}
PAUSES_SECONDS = [*[0] * 30, *[0.001] * 30, *[0.02] * 15, 2 * LEASE_SECONDS]
"""Of a worker, before it answers."""
PROCESSES = 2
THREADS = 3
"""Workers in processes of their own, which are killed, and in this one, whose connections break off."""
RETRY_SECONDS = 0.05
"""A service that is not there is asked again so soon."""


def serve(address: str, agent_id: str, seed: int, stopped: threading.Event) -> None:
    """A worker that is slow now and then, or fails, and connects again until it is stopped or killed.

    A reply of which it does not know what became of it is given again on the next stream, as any worker may.
    """
    choose, unsure = random.Random(seed), dict[str, str]()
    while not stopped.is_set():
        capacity, patience = choose.randrange(1, 8), choose.uniform(0.2, 5)
        with (
            suppress(grpc.RpcError),
            grpc.insecure_channel(address) as channel,
            Worker(channel, agent_id, capacity, history=2, patience=patience) as worker,
        ):
            for delivery_id, content in unsure.items():
                worker.reply(delivery_id, content)
            while True:
                kind, value = worker.told()
                if kind == "delivery":
                    time.sleep(choose.choice(PAUSES_SECONDS))
                    if choose.random() < 0.05:
                        worker.fail(value, "not in the mood")
                        continue
                    worker.chunk(value, "re: ")
                    unsure[value.delivery_id] = f"re: {value.message.content}"
                    worker.reply(value, unsure[value.delivery_id])
                elif kind in ("accepted", "refused"):
                    unsure.pop(value.delivery_id, None)
        stopped.wait(RETRY_SECONDS)


@dataclass
class Sent:
    """What was sent: the contents that were acknowledged, and those of which nobody knows."""

    acknowledged: dict[str, list[str]] = field(default_factory=dict)
    in_doubt: set[str] = field(default_factory=set)
    progress: threading.Condition = field(default_factory=threading.Condition)

    def count(self) -> int:
        return sum(map(len, self.acknowledged.values()))

    def wait_for(self, count: int) -> None:
        with self.progress:
            assert self.progress.wait_for(lambda: self.count() >= count, timeout=120), (
                f"{self.count()} messages of {count}"
            )


def send_all(address: str, session_id: str, count: int, sent: Sent) -> None:
    """Sends so many messages into a session until so many are acknowledged; one that is not acknowledged is
    sent again, as another.
    """
    known, attempt = sent.acknowledged[session_id], 0
    with grpc.insecure_channel(address) as channel:
        messages = message_service_pb2_grpc.MessageServiceStub(channel)
        while len(known) < count:
            content, attempt = f"{len(known)}-{attempt}", attempt + 1
            sent.in_doubt.add(f"{session_id} {content}")
            try:
                messages.SendMessage(
                    SendMessageRequest(session_id=session_id, content=content),
                    timeout=30,
                    wait_for_ready=True,
                )
            except grpc.RpcError:
                continue
            sent.in_doubt.discard(f"{session_id} {content}")
            with sent.progress:
                known.append(content)
                sent.progress.notify_all()


class Crew:
    """The workers, in processes and threads."""

    def __init__(self, address: str, agent_id: str, seed: int) -> None:
        self._address, self._agent_id = address, agent_id
        self._stopped = threading.Event()
        self._processes = [self._process(seed + n) for n in range(PROCESSES)]
        # Not killed, but their patience ends at random: their streams then break off in the middle.
        arguments = [(address, agent_id, seed + PROCESSES + n, self._stopped) for n in range(THREADS)]
        self._threads = [threading.Thread(target=serve, args=one, daemon=True) for one in arguments]
        for thread in self._threads:
            thread.start()

    def _process(self, seed: int) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "tests.campaigns.test_workers",
            self._address,
            self._agent_id,
            str(seed),
        ]
        return subprocess.Popen(command, cwd=Path(__file__).parents[2])

    def kill_one(self, number: int, seed: int) -> None:
        """Kills a worker's process and starts another in its place."""
        old = self._processes[number]
        self._processes[number] = self._process(seed)
        old.kill()
        old.wait()

    def stop(self) -> None:
        self._stopped.set()
        for process in self._processes:
            process.kill()
            process.wait()
        for thread in self._threads:
            thread.join()


def open_deliveries(directory: Path) -> Counter[str]:
    """How many deliveries there are in each state."""
    return Counter(dict(execute(directory, "SELECT state, count(*) FROM deliveries GROUP BY state")))


def check(service: Serve, sent: Sent) -> int:
    """Each stored message of the user has exactly one reply, in order; returns how many there are."""
    stored = 0
    for session_id, acknowledged in sent.acknowledged.items():
        found = history(service, session_id)
        said = {message.sequence: message for message in found if not message.is_agent}
        stored += len(said)
        contents = [message.content for message in said.values()]
        assert set(acknowledged) <= set(contents), "an acknowledged message is lost"
        assert set(contents) - set(acknowledged) <= {
            doubt.split()[1] for doubt in sent.in_doubt if doubt.startswith(session_id)
        }
        replies = [message for message in found if message.is_agent]
        answered = [message.reply_to_sequence for message in replies]
        assert [sequence for sequence, count in Counter(answered).items() if count > 1] == [], (
            f"messages of {session_id} with two replies"
        )
        assert set(said) == set(answered), f"messages of {session_id} without a reply"
        assert answered == sorted(answered), f"replies of {session_id} out of order"
        assert [message.content for message in replies] == [
            f"re: {said[sequence].content}" for sequence in answered
        ]
    return stored


def check_states(directory: Path, stored: int) -> None:
    """Nothing is under way any more, nothing has failed, and no log has an entry that says so."""
    assert open_deliveries(directory) == {"answered": stored}
    assert execute(directory, "SELECT count(*) FROM log WHERE kind = 'reply_failure'") == [(0,)]


@pytest.mark.parametrize(
    ("kills", "sessions", "each"),
    [(3, 10, 10), pytest.param(30, 50, 20, marks=pytest.mark.slow)],
    ids=["short", "full"],
)
def test_each_message_gets_one_reply_whoever_is_killed(
    start: Start, tmp_path: Path, kills: int, sessions: int, each: int
) -> None:
    seed = int(os.environ.get("WORKERS_SEED") or random.SystemRandom().randrange(10**9))
    print(f"WORKERS_SEED={seed}")
    choose, sent = random.Random(seed), Sent()
    service = start("--no-rest", **SETTINGS)
    address, begun = service.grpc, time.monotonic()
    agent_id = stream_agent(service)
    sent.acknowledged = {create(service, agent_id).session_id: [] for _ in range(sessions)}
    crew = Crew(address, agent_id, seed)
    answered_at_kills = []
    try:
        with ThreadPoolExecutor(sessions) as pool:
            senders = [
                pool.submit(send_all, address, session_id, each, sent) for session_id in sent.acknowledged
            ]
            for number in range(kills):
                # Spread over the whole of it, so that there is something under way at each kill.
                sent.wait_for(round(sessions * each * number / kills))
                time.sleep(choose.uniform(0, 0.3))
                crew.kill_one(choose.randrange(PROCESSES), seed + 100 + number)
                service.kill()
                answered_at_kills.append(open_deliveries(tmp_path))
                service = start("--no-rest", GRPC_ADDRESS=address, **SETTINGS)
            for sender in senders:
                sender.result()
        until(
            lambda: set(open_deliveries(tmp_path)) == {"answered"},
            "every delivery is answered",
            GIVE_UP_SECONDS,
        )
    finally:
        crew.stop()
    stored = check(service, sent)
    ((retried,),) = execute(tmp_path, "SELECT count(*) FROM deliveries WHERE attempts > 1")
    ((most,),) = execute(tmp_path, "SELECT max(attempts) FROM deliveries")
    assert service.stop() == 0
    check_states(tmp_path, stored)
    check_store(tmp_path)
    leased, pending = (sum(states[state] for states in answered_at_kills) for state in ("leased", "pending"))
    assert leased, "nothing was under way at any kill"
    print(
        f"{kills} kills in {time.monotonic() - begun:.0f} s, seed {seed}: {stored} messages stored "
        f"({sent.count()} acknowledged, "
        f"{stored - sent.count()} in doubt), {stored} replies; at the kills {leased} deliveries were leased "
        f"and {pending} pending; "
        f"{retried} were given more than once, at most {most} times"
    )


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), threading.Event())
