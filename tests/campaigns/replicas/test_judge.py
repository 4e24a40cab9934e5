"""The judges of the campaigns of several servers find what is planted, and nothing where nothing is wrong."""

import math
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from eliza.sessions import values
from eliza.sessions.v1 import log_pb2, session_service_pb2
from tests.campaigns.replicas.agents import asked_twice
from tests.campaigns.replicas.campaign import Outage, Plan, Report
from tests.campaigns.replicas.leases import Death, Leases
from tests.campaigns.replicas.mortals import EXPIRED, WARNED, Mortal, judge
from tests.campaigns.traffic import check
from tests.campaigns.traffic.clients import Sent
from tests.campaigns.traffic.model import Dropped, Findings, Model
from tests.campaigns.traffic.watcher import Watcher, seen_entry

SESSION = "a session"


class Reader:
    """A service whose one session has this log."""

    kind = "gRPC"

    def __init__(self, log: list[log_pb2.LogEntry]) -> None:
        self._log = log

    async def get(self, session_id: str) -> Any:
        return type("Session", (), {"last_sequence": self._log[-1].sequence})

    async def watch(self, session_id: str, after: int) -> AsyncIterator[log_pb2.LogEntry]:
        for entry in self._log:
            yield entry

    async def list_page(self, page_token: str) -> session_service_pb2.ListSessionsResponse:
        page = session_service_pb2.ListSessionsResponse()
        page.sessions.add(session_id=SESSION).metadata.CopyFrom(values.struct({"mark": "chat-0"}))
        return page


class Planted:
    """A session with two messages of one sender and their replies, which were acknowledged and seen."""

    def __init__(self) -> None:
        self.model = Model()
        self.model.created["chat-0"] = SESSION
        self.log: list[log_pb2.LogEntry] = []
        for number in range(2):
            sequence = 2 * number + 1
            self._append(sequence, f"sent {number}", f"sender-{number}")
            self._append(sequence + 1, f"reply {number}", f"sender-{number}", answers=sequence)
            self.model.sent[SESSION][f"sender-{number}"] = Sent(f"sent {number}")
        self.watcher = Watcher(Reader(self.log), SESSION)  # type: ignore[arg-type]
        self.watcher.seen = [seen_entry(entry) for entry in self.log]
        self.dropped: dict[str, dict[tuple[str, str], Dropped]] = {}

    def _append(self, sequence: int, message_id: str, content: str, answers: int = 0) -> None:
        entry = log_pb2.LogEntry(session_id=SESSION, sequence=sequence)
        entry.message.message_id, entry.message.content = message_id, content
        entry.message.sequence = sequence
        entry.message.created_at.FromMilliseconds(1000 * sequence)
        if answers:
            entry.message.is_agent, entry.message.reply_to_sequence = True, answers
        entry.session_status.renewal_count = 2
        self.log.append(entry)

    async def judged(self) -> dict[str, list[str]]:
        """What is found."""
        reader: Any = Reader(self.log)
        found = await check.Check(self.model, reader, [self.watcher], self.dropped).run({"end-1": 9_000})
        return {name: lines for name, lines in vars(found).items() if lines}

    def follow(self) -> None:
        """Has the watcher have seen what is stored, so that it finds nothing besides."""
        self.watcher.seen = [seen_entry(entry) for entry in self.log]


def lose_a_message(planted: Planted) -> None:
    planted.model.sent[SESSION]["sender-2"] = Sent("sent 2")


def lose_a_reply(planted: Planted) -> None:
    del planted.log[-1]
    planted.follow()


def double_a_message(planted: Planted) -> None:
    planted._append(5, "sent again", "sender-1")
    for entry in planted.log:
        entry.session_status.renewal_count = 2
    planted.follow()


def double_a_reply(planted: Planted) -> None:
    planted._append(5, "reply again", "sender-1", answers=3)
    planted.follow()


def leave_a_gap(planted: Planted) -> None:
    del planted.watcher.seen[1]


def tell_an_entry_twice(planted: Planted) -> None:
    planted.watcher.seen.append(planted.watcher.seen[-1])


def swap_the_messages(planted: Planted) -> None:
    first, second = planted.log[0].message, planted.log[2].message
    first.content, second.content = second.content, first.content
    first.message_id, second.message_id = second.message_id, first.message_id
    planted.log[1].message.content, planted.log[3].message.content = first.content, second.content
    planted.follow()


def swap_the_replies(planted: Planted) -> None:
    entries = [planted.log[0], planted.log[2], planted.log[3], planted.log[1]]
    for sequence, entry in enumerate(entries, 1):
        entry.sequence = entry.message.sequence = sequence
    entries[2].message.reply_to_sequence, entries[3].message.reply_to_sequence = 2, 1
    planted.log[:] = entries
    planted.follow()


def drop_an_answer(planted: Planted) -> None:
    planted.dropped["end-1"] = {(SESSION, "sender-0"): Dropped(500, [], 2_000)}


class TestTheModel:
    async def test_nothing_is_found_where_nothing_is_wrong(self) -> None:
        assert await Planted().judged() == {}

    @pytest.mark.parametrize(
        ("plant", "found"),
        [
            (lose_a_message, "lost"),
            (lose_a_reply, "lost"),
            (double_a_message, "doubled"),
            (double_a_reply, "doubled"),
            (leave_a_gap, "gaps"),
            (tell_an_entry_twice, "gaps"),
            (swap_the_messages, "disordered"),
            (swap_the_replies, "disordered"),
            (drop_an_answer, "dropped"),
        ],
    )
    async def test_what_is_planted_is_found(
        self, monkeypatch: pytest.MonkeyPatch, plant: Callable[[Planted], None], found: str
    ) -> None:
        # What is missing never comes.
        monkeypatch.setattr(check, "SETTLING_SECONDS", 0.05)
        planted = Planted()
        plant(planted)
        assert found in await planted.judged()

    async def test_a_message_that_another_server_has_stored_since_was_not_dropped(self) -> None:
        planted = Planted()
        # Dropped before it was stored, by the attempt that followed.
        planted.dropped["end-1"] = {(SESSION, "sender-0"): Dropped(500, [], 900)}
        assert await planted.judged() == {}
        planted.dropped["end-1"] = {(SESSION, "sender-0"): Dropped(500, [], math.inf)}
        assert "dropped" in await planted.judged()


LIFE = [("message", 100), ("message", 200), (WARNED, 1_000), (EXPIRED, 3_000)]


def found_of(log: list[tuple[str, int]], told: list[tuple[int, str, int]] | None = None) -> list[str]:
    """Which findings there are of a session that is to be warned at 1,000 and expires at 3,000."""
    mortal, found = Mortal(SESSION, 1_000, 3_000), Findings()
    mortal.told = [(n, kind, at_ms) for n, (kind, at_ms) in enumerate(log, 1)] if told is None else told
    judge(mortal, log, found)
    return [name for name, lines in vars(found).items() if lines]


class TestSessionsThatEnd:
    def test_one_warning_and_one_expiry_in_time_are_as_they_should_be(self) -> None:
        assert found_of(LIFE) == []
        late = [(kind, at_ms + 400) for kind, at_ms in LIFE]
        assert found_of(late) == []

    def test_a_warning_or_an_expiry_that_is_missing_or_twice_is_found(self) -> None:
        assert found_of([LIFE[0], LIFE[1], LIFE[3]]) == ["lost"]
        assert found_of(LIFE[:3]) == ["lost", "disordered"]
        assert found_of([*LIFE[:3], (WARNED, 1_001), LIFE[3]]) == ["doubled"]
        assert found_of([*LIFE, (EXPIRED, 3_001)]) == ["doubled"]

    def test_what_is_early_is_found(self) -> None:
        assert found_of([*LIFE[:2], (WARNED, 999), LIFE[3]]) == ["other"]
        assert found_of([*LIFE[:3], (EXPIRED, 2_999)]) == ["other"]
        # Also where the entry pretends to be in time.
        told = [(n, kind, at_ms) for n, (kind, at_ms) in enumerate(LIFE, 1)]
        assert found_of(LIFE, [*told[:3], (4, EXPIRED, 2_000)]) == ["other"]

    def test_what_its_watcher_was_not_told_or_was_told_twice_is_found(self) -> None:
        told = [(n, kind, at_ms) for n, (kind, at_ms) in enumerate(LIFE, 1)]
        assert found_of(LIFE, [*told[:2], told[3]]) == ["gaps"]
        assert found_of(LIFE, [*told, told[3]]) == ["gaps"]

    def test_what_comes_behind_the_expiry_is_found(self) -> None:
        assert found_of([*LIFE, ("message", 4_000)]) == ["doubled", "disordered"]


class TestLeases:
    def test_those_that_come_back_late_are_found(self) -> None:
        leases = Leases("")
        leases.deaths = {"prompt": Death(10.0, 2, 24.0), "late": Death(10.0, 1, 25.5), "none": Death(10.0)}
        (late,) = leases.late(15)
        assert "late were back after 15.5 s" in late
        assert str(leases) == "3 leases at 2 of 3 dead servers, back after 15.5 s at most"


class TestTheWebhook:
    def test_a_delivery_that_two_servers_have_at_a_time_is_found(self) -> None:
        asked = {"once": [5.0], "at a time": [10.0, 10.1], "a lapsed lease": [20.0, 29.0]}
        (twice,) = asked_twice(asked, [])
        assert twice.startswith("at a time: the webhook was asked again after 0.1")
        # Its server was killed just then.
        assert asked_twice(asked, [9.5]) == []
        assert len(asked_twice(asked, [12.0])) == 1


class TestFigures:
    def test_an_answer_to_a_call_from_before_a_kill_does_not_count(self) -> None:
        report, client = Report(1), object()
        report.outages.append(Outage(1_000.0, {client}))
        report.on_answer(client, 999.0)
        assert report.outages[0].first_s is None
        report.on_answer(object(), 1_000.5)
        assert report.outages[0].first_s is not None
        assert report.outages[0].moved_s == []
        report.on_answer(client, 1_001.0)
        assert len(report.outages[0].moved_s) == 1

    def test_all_that_is_planned_happens(self) -> None:
        rounds = Plan(3, 2, 1, 4).rounds(random.Random(1))
        assert sorted(rounds) == [*["end"] * 2, *["facade"] * 4, "freeze", *["kill"] * 3]
