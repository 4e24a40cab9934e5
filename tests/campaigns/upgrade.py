"""`python -m tests.campaigns.upgrade`: three servers on one PostgreSQL are replaced by those of a newer
version, one after the other, while clients send and watch and workers answer.

First from the first version that landed with a PostgreSQL store to the present one; then from the present one
to one with a further migration, whose part before adds a table and whose part after removes one that the
older servers write to with every transaction.

No call may fail: none that a client makes raises an error, with the repeats that the Python client documents
(a lost connection, UNAVAILABLE and its wait, the same request id) within its time of 30 s, or 180 s where it
waits for a reply. No watch may end, miss or repeat an entry. In the end each acknowledged message is stored
once and has one reply. The first failed call ends the upgrade.
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psycopg

from eliza_sessions_client import Client, user_id_for
from tests.campaigns.client_kills import PATIENCE_SECONDS, SETTINGS, Findings, Talk, Workers, wait_for_replies
from tests.campaigns.upgrade_versions import NoHistoryError, Version, first, later, present
from tests.service.agents.worker import stream_agent
from tests.support.postgres import PostgresServer
from tests.support.realtime.programs import free_address
from tests.support.service import Serve
from tests.support.waiting import until

SERVERS: Final = 3
CALL_SECONDS: Final = 30.0
"""How long a call may take with all its attempts: the client's own default."""
PAUSE_SECONDS: Final = 0.02
"""Between two messages of a sender."""
SENT_BETWEEN: Final = 4
"""How many messages each session has acknowledged, at least, between two steps: there is load at each."""


@dataclass(frozen=True)
class Patience:
    """How many seconds a call may take with all its attempts, and one that waits for a reply."""

    call: float = CALL_SECONDS
    reply: float = PATIENCE_SECONDS


PATIENCE: Final = Patience()


@dataclass
class Upgrade:
    """What became of an upgrade."""

    findings: Findings = field(default_factory=Findings)
    replaced: int = 0
    longest_s: float = 0.0
    schemas: list[tuple[int, int]] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """What is wrong."""
        return self.findings.problems

    def line(self) -> str:
        """One line for people."""
        findings = self.findings
        return (
            f"{self.replaced} servers replaced: {findings.acknowledged} messages acknowledged, "
            f"{findings.in_doubt} calls failed; the longest call {self.longest_s:.1f} s; stored "
            f"{findings.stored} with {findings.replies} replies; schema and cleared: "
            f"{', '.join(f'{version}/{cleared}' for version, cleared in self.schemas)}"
        )


class Sender:
    """Sends to a session until it is told to end."""

    def __init__(self, talk: Talk, client: Client) -> None:
        self.talk = talk
        self.longest_s = 0.0
        self._client = client

    def run(self, end: threading.Event) -> None:
        """Sends one message after the other."""
        number = 0
        while not end.wait(PAUSE_SECONDS):
            begun_s = time.monotonic()
            self.talk.send_one(self._client, number)
            self.longest_s = max(self.longest_s, time.monotonic() - begun_s)
            number += 1


class Servers:
    """Servers on one store, each at an address that its successor takes over."""

    def __init__(self, directory: Path, url: str, version: Version) -> None:
        self._directory = directory
        self.url = url
        self.addresses = [free_address() for _ in range(SERVERS)]
        self.running: list[Serve] = []
        try:
            for number in range(SERVERS):
                self.running.append(self._start(number, version))
        except BaseException:
            self.kill()
            raise

    def _start(self, number: int, version: Version) -> Serve:
        directory = self._directory / f"server{number}"
        return version.start(directory, self.addresses[number], DATABASE_URL=self.url, **SETTINGS)

    def replace(self, number: int, version: Version) -> str:
        """Ends a server by SIGTERM, and starts another version in its place; returns what was wrong."""
        old = self.running[number]
        status = old.stop()
        self.running[number] = self._start(number, version)
        return f"server: it ended with {status}: {old.log()[-2000:]}" if status else ""

    def stop(self) -> Iterator[str]:
        """Ends all of them; tells of those that were not well."""
        for server in self.running:
            if server.stop() != 0 or "Traceback" in server.log():
                yield f"server: {server.log()[-4000:]}"

    def kill(self) -> None:
        """Ends those that still run, at once."""
        for server in self.running:
            if server.process.poll() is None:
                server.kill()

    def schema(self) -> tuple[int, int]:
        """The store's schema, and up to which one what older servers needed has been taken away."""
        with psycopg.connect(self.url) as link:
            ((version, cleared),) = link.execute("SELECT version, cleared FROM schema_version").fetchall()
        return version, cleared


def campaign(
    directory: Path,
    seed: int,
    url: str,
    versions: tuple[Version, Version],
    *,
    sessions: int,
    patience: Patience = PATIENCE,
) -> Upgrade:
    """Plays one upgrade on an empty database; returns what became of it."""
    choose, upgrade, (old, new) = random.Random(seed), Upgrade(), versions
    servers = Servers(directory, url, old)
    try:
        # Each client begins with another server, as if by a name that leads to all.
        with clients(servers.addresses, choose, sessions, patience.call) as callers:
            agent_id = stream_agent(servers.running[0])
            workers = Workers(at_all(servers.addresses, choose), agent_id)
            try:
                user = user_id_for(f"upgrade {seed}")
                talks = [Talk(client.create(agent_id, user).session_id, patience.reply) for client in callers]
                _play(upgrade, servers, callers, talks, versions)
            finally:
                statuses = workers.stop()
        if any(statuses):
            upgrade.problems.append(f"worker: exit statuses {statuses}")
        checked = new.run("check", cwd=directory, DATABASE_URL=url)
        if checked.status != 0:
            upgrade.problems.append(f"check: {checked.out}{checked.errors}")
        upgrade.problems.extend(servers.stop())
    finally:
        servers.kill()
    return upgrade


def at_all(addresses: Sequence[str], choose: random.Random) -> str:
    """The address of a client that goes to another server where one is away."""
    return f"ipv4:{','.join(choose.sample(addresses, len(addresses)))}"


@contextmanager
def clients(
    addresses: Sequence[str], choose: random.Random, count: int, seconds: float
) -> Iterator[list[Client]]:
    """Clients of all servers, whose calls may take so long."""
    with ExitStack() as stack:
        yield [stack.enter_context(Client(at_all(addresses, choose), timeout=seconds)) for _ in range(count)]


def _play(
    upgrade: Upgrade,
    servers: Servers,
    callers: list[Client],
    talks: list[Talk],
    versions: tuple[Version, Version],
) -> None:
    end = threading.Event()
    senders = [Sender(talk, client) for talk, client in zip(talks, callers, strict=True)]
    with ThreadPoolExecutor(2 * len(senders)) as pool:
        try:
            watching = [pool.submit(talk.watch, client) for talk, client in zip(talks, callers, strict=True)]
            sending = [pool.submit(sender.run, end) for sender in senders]
            _replace_all(upgrade, servers, versions, talks, sending)
            end.set()
            if not _list_failed(talks):
                _check(upgrade, callers[0], talks, sending, watching)
        finally:
            # Ends the watches, and what still waits for a reply, whatever happened.
            end.set()
            for client in callers:
                client.close()
    upgrade.longest_s = max(sender.longest_s for sender in senders)
    failed = _list_failed(talks)
    upgrade.findings.in_doubt = len(failed)
    upgrade.problems.extend(failed)


def _check(
    upgrade: Upgrade,
    client: Client,
    talks: list[Talk],
    sending: "list[Future[None]]",
    watching: "list[Future[None]]",
) -> None:
    """Compares what was acknowledged with what is stored, and what was seen."""
    for one in sending:
        one.result()
    wait_for_replies(client, talks)
    for talk in talks:
        talk.check(client, upgrade.findings)
    for talk in talks:
        client.delete(talk.session_id)
    for one in watching:
        one.result(PATIENCE_SECONDS)


def _list_failed(talks: list[Talk]) -> list[str]:
    return [f"failed: {content} of {talk.session_id}" for talk in talks for content in talk.in_doubt]


def _replace_all(
    upgrade: Upgrade,
    servers: Servers,
    versions: tuple[Version, Version],
    talks: list[Talk],
    sending: "list[Future[None]]",
) -> None:
    """Replaces one server after the other, under load, and looks at the schema after each.

    The first failed call ends it.
    """
    old, new = versions
    _wait_for_load(talks, sending)
    upgrade.schemas.append(servers.schema())
    if _list_failed(talks):
        return
    for number in range(SERVERS):
        if wrong := servers.replace(number, new):
            upgrade.problems.append(wrong)
        upgrade.replaced += 1
        upgrade.schemas.append(servers.schema())
        # The last one starts when no older server runs any more.
        expected = new.schema, new.schema if number == SERVERS - 1 else old.schema
        if upgrade.schemas[-1] != expected:
            upgrade.problems.append(f"schema: {upgrade.schemas[-1]} after {number + 1}, not {expected}")
        _wait_for_load(talks, sending)
        if _list_failed(talks):
            return


def _wait_for_load(talks: list[Talk], sending: "list[Future[None]]") -> None:
    """Waits until each session has some more messages, or a call has failed, which it has within its time."""
    wanted = [len(talk.acknowledged) + SENT_BETWEEN for talk in talks]

    def have_more() -> bool:
        if _list_failed(talks) or any(one.done() for one in sending):
            return True
        return all(len(talk.acknowledged) >= count for talk, count in zip(talks, wanted, strict=True))

    until(have_more, "messages between two steps", PATIENCE_SECONDS)


def main() -> int:
    """Plays both upgrades; the exit status is 1 where a call failed, or something is lost or doubled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--sessions", type=int, default=24)
    told = parser.parse_args()
    print(f"seed {told.seed}", flush=True)
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        pairs: list[tuple[Version, Version]] = []
        try:
            pairs.append((first(directory / "first"), present()))
        except NoHistoryError as error:
            print(f"not played: the first version to the present one: {error}", flush=True)
        pairs.append((present(), later(directory / "later")))
        for number, (old, new) in enumerate(pairs):
            print(f"{old.name}, schema {old.schema}, to {new.name}, schema {new.schema}", flush=True)
            if old.schema == new.schema:
                print("the schemas are the same: this shows the code side by side, the next one a migration")
            database = PostgresServer()
            try:
                url = database.url(database.make_database())
                upgrade = campaign(
                    directory / f"play{number}", told.seed, url, (old, new), sessions=told.sessions
                )
            finally:
                database.close()
            print(upgrade.line(), flush=True)
            problems += upgrade.problems
    print(*problems, sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
