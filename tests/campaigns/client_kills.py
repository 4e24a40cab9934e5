"""`python -m tests.campaigns.client_kills`: the Python client sends and watches, and its workers answer,
while the service and a worker are killed by SIGKILL at random moments.

The client repeats by itself what a kill took. In the end each acknowledged message is stored once and has one
reply, in order, and each watcher has seen every entry of the log once.
"""

import argparse
import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from eliza_sessions_client import (
    Client,
    LogEntry,
    Message,
    ReplyAborted,
    ReplyChunk,
    SessionsError,
    Turn,
    agent,
    run,
    user_id_for,
)
from tests.service.agents.worker import stream_agent
from tests.support.realtime.programs import free_address
from tests.support.service import Serve
from tests.support.waiting import until

ROOT: Final = Path(__file__).parents[2]
SETTINGS: Final = {
    "DELIVERY_ATTEMPTS": "50",
    "DELIVERY_BACKOFF_SECONDS": "0.01",
    "DELIVERY_MAX_BACKOFF_SECONDS": "0.1",
    "DELIVERY_LEASE_SECONDS": "2",
}
WORKERS: Final = 2
PATIENCE_SECONDS: Final = 180.0
"""How long a call may take over kills; others use the machine, too."""


@dataclass
class Findings:
    """What was sent and seen, and what is wrong with it."""

    kills: int = 0
    acknowledged: int = 0
    in_doubt: int = 0
    stored: int = 0
    replies: int = 0
    aborted: int = 0
    problems: list[str] = field(default_factory=list)

    def line(self) -> str:
        """One line for people."""
        kinds = Counter(problem.partition(":")[0] for problem in self.problems)
        return (
            f"{self.kills} kills: {self.acknowledged} messages acknowledged, {self.in_doubt} in doubt; "
            f"stored {self.stored} with {self.replies} replies; {kinds['lost']} lost, "
            f"{kinds['doubled']} doubled, {kinds['unanswered']} unanswered, "
            f"{kinds['event']} events missed or repeated; pieces of {self.aborted} replies void"
        )


@dataclass
class Talk:
    """One session: its sender and its watcher. `reply_seconds`: how long its sender waits for a reply."""

    session_id: str
    reply_seconds: float = PATIENCE_SECONDS
    acknowledged: list[str] = field(default_factory=list)
    in_doubt: list[str] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    aborted: int = 0
    problems: list[str] = field(default_factory=list)

    def send(self, client: Client, count: int, on_sent: Callable[[], None]) -> None:
        """Sends so many messages, and waits for the reply of every other one."""
        for number in range(count):
            self.send_one(client, number)
            on_sent()

    def send_one(self, client: Client, number: int) -> None:
        """Sends a message, and waits for its reply where its number is even. Notes what became of it."""
        content = f"message {number}"
        try:
            if number % 2:
                client.send(self.session_id, content)
            else:
                self._converse(client, content)
        except SessionsError as error:
            print(f"in doubt: {error!r}", flush=True)
            self.in_doubt.append(content)
        else:
            self.acknowledged.append(content)

    def _converse(self, client: Client, content: str) -> None:
        shown: dict[str, str] = {}
        for part in client.converse(self.session_id, content, timeout=self.reply_seconds):
            match part:
                case ReplyChunk():
                    shown[part.message_id] = shown.get(part.message_id, "") + part.chunk
                case ReplyAborted():
                    del shown[part.message_id]
                case Message():
                    # Of the reply, all pieces or none; a client that reads late has none.
                    if any(not part.content.startswith(text) for text in shown.values()):
                        self.problems.append(f"event: pieces {shown} of {part.content!r}")

    def watch(self, client: Client) -> None:
        """Watches until the session ends."""
        for event in client.watch(self.session_id, patience=PATIENCE_SECONDS):
            if isinstance(event, LogEntry):
                self.sequences.append(event.sequence)
            self.aborted += isinstance(event, ReplyAborted)

    def check(self, client: Client, findings: Findings) -> None:
        """Compares what was acknowledged with what is stored."""
        found = list(client.messages(self.session_id))[::-1]
        said = [message for message in found if not message.is_agent]
        replies = [message for message in found if message.is_agent]
        stored = Counter(message.content for message in said)
        where = self.session_id
        findings.problems += self.problems
        findings.problems += [f"lost: {one} of {where}" for one in self.acknowledged if not stored[one]]
        findings.problems += [f"doubled: {one} of {where}" for one, count in stored.items() if count > 1]
        expected = [(message.sequence, f"re: {message.content}") for message in said]
        answered = [(message.reply_to_sequence, message.content) for message in replies]
        findings.problems += [f"unanswered: {one} of {where}" for one in expected if one not in answered]
        findings.problems += [
            f"doubled: reply {one} of {where}" for one, count in Counter(answered).items() if count > 1
        ]
        findings.acknowledged += len(self.acknowledged)
        findings.in_doubt += len(self.in_doubt)
        findings.stored += len(said)
        findings.replies += len(replies)
        findings.aborted += self.aborted
        last = client.get(self.session_id).last_sequence
        if self.sequences != list(range(1, last + 1)):
            findings.problems.append(f"event: {where} has {last} entries, seen {self.sequences}")


class Workers:
    """The workers, in processes of their own."""

    def __init__(self, address: str, agent_id: str) -> None:
        command = [sys.executable, "-m", "tests.campaigns.client_kills", "--work", agent_id, "--at", address]
        self._start = lambda: subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        )
        self._processes = [self._start() for _ in range(WORKERS)]

    def kill_one(self, number: int) -> None:
        """Kills one and starts another in its place."""
        self._processes[number].kill()
        self._processes[number].wait()
        self._processes[number] = self._start()

    def stop(self) -> list[int]:
        """Ends them as an orchestrator does; returns their exit statuses."""
        for process in self._processes:
            until(lambda one=process: one.poll() is not None or heeds(one.pid, signal.SIGTERM), "a worker")
            process.terminate()
        return [process.wait(60) for process in self._processes]


def heeds(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal; one that still starts has none."""
    caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(caught and int(caught[1], 16) >> (number - 1) & 1)


def work(address: str, agent_id: str) -> None:
    """A worker: it repeats what it is told, now and then slowly."""

    @agent(agent_id, concurrency=4)
    async def reply(turn: Turn):  # type: ignore[no-untyped-def]
        yield "re: "
        await asyncio.sleep(random.choice((0, 0, 0.01, 0.05)))
        yield turn.text

    run(reply, address=address)


def campaign(directory: Path, seed: int, *, kills: int, sessions: int, each: int) -> Findings:
    """Plays; returns what is wrong."""
    choose, findings, address = random.Random(seed), Findings(), free_address()
    service = Serve(directory, "--no-rest", GRPC_ADDRESS=address, **SETTINGS)
    agent_id = stream_agent(service)
    workers = Workers(address, agent_id)
    progress, sent = threading.Condition(), 0

    def on_sent() -> None:
        nonlocal sent
        with progress:
            sent += 1
            progress.notify_all()

    def wait_for(count: int) -> None:
        with progress:
            if not progress.wait_for(lambda: sent >= count, timeout=PATIENCE_SECONDS):
                raise TimeoutError(f"{sent} messages of {count}")

    with Client(address, timeout=PATIENCE_SECONDS) as client, ThreadPoolExecutor(2 * sessions) as pool:
        user = user_id_for(f"client kills {seed}")
        talks = [Talk(client.create(agent_id, user).session_id) for _ in range(sessions)]
        try:
            watching = [pool.submit(talk.watch, client) for talk in talks]
            sending = [pool.submit(talk.send, client, each, on_sent) for talk in talks]
            for number in range(kills):
                # Spread over the whole of it, so that something is under way at each kill.
                wait_for(sessions * each * number // kills)
                time.sleep(choose.uniform(0, 0.3))
                if choose.random() < 0.5:
                    workers.kill_one(choose.randrange(WORKERS))
                service.kill()
                findings.kills += 1
                service = Serve(directory, "--no-rest", GRPC_ADDRESS=address, **SETTINGS)
            for one in sending:
                one.result()
            wait_for_replies(client, talks)
            for talk in talks:
                talk.check(client, findings)
            for talk in talks:
                client.delete(talk.session_id)
            for one in watching:
                one.result(PATIENCE_SECONDS)
        finally:
            # Ends the watches, too, whatever happened.
            client.close()
            statuses = workers.stop()
    if statuses != [0] * WORKERS:
        findings.problems.append(f"worker: exit statuses {statuses}")
    if service.stop() != 0 or "Traceback" in service.log():
        findings.problems.append(f"service: {service.log()[-2000:]}")
    return findings


def wait_for_replies(client: Client, talks: list[Talk]) -> None:
    """Waits until each message has its reply, and each watcher has seen the last entry."""
    deadline_s = time.monotonic() + PATIENCE_SECONDS
    for talk in talks:
        while time.monotonic() < deadline_s:
            found = list(client.messages(talk.session_id))
            last = client.get(talk.session_id).last_sequence
            answered = 2 * sum(message.is_agent for message in found) == len(found)
            if answered and (talk.sequences or [0])[-1] == last:
                break
            time.sleep(0.05)


def main() -> int:
    """Plays a campaign; the exit status is 1 where something is lost or doubled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--sessions", type=int, default=12)
    parser.add_argument("--each", type=int, default=200)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--at", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.work:
        work(told.at, told.work)
        return 0
    print(f"seed {told.seed}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        findings = campaign(
            Path(directory), told.seed, kills=told.kills, sessions=told.sessions, each=told.each
        )
    print(findings.line())
    print(*findings.problems, sep="\n")
    return 1 if findings.problems else 0


if __name__ == "__main__":
    sys.exit(main())
