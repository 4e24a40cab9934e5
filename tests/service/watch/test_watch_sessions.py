"""WatchSessions: many sessions on one stream."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from eliza.sessions.errors import TABLE
from eliza.sessions.v1 import (
    errors_pb2,
    log_pb2,
    session_service_pb2,
)
from tests.service.watch.changes import delete, talked
from tests.support.clients import replies, send
from tests.support.realtime.streams import ManyWatched, ends
from tests.support.service import UNKNOWN, Serve


def reason(end: object) -> str:
    assert isinstance(end, session_service_pb2.WatchSessionsResponse.End)
    return errors_pb2.ErrorReason.Name(end.reason).removeprefix("ERROR_REASON_")


@pytest.fixture
def many(service: Serve) -> Iterator[ManyWatched]:
    with closing(ManyWatched(service)) as stream:
        yield stream


class TestWatchSessions:
    def test_many_sessions_on_one_stream_are_heard_in_order(self, service: Serve, many: ManyWatched) -> None:
        ids = [talked(service, 1) for _ in range(5)]
        for session_id in ids:
            many.join(session_id, 0)
        found: dict[str, list[int]] = {session_id: [] for session_id in ids}
        joined = []
        for _ in range(15):
            kind, event = many.event()
            if kind == "joined":
                joined.append(event.session.session_id)
                assert (event.after_sequence, event.session.last_sequence) == (0, 2)
            else:
                assert event.session_id in joined, "an entry comes before its session is joined"
                found[event.session_id].append(event.sequence)
        assert joined == ids
        assert set(map(tuple, found.values())) == {(1, 2)}

    def test_a_join_from_now_on_hears_what_comes(self, service: Serve, many: ManyWatched) -> None:
        session_id = talked(service)
        many.join(session_id)
        assert many.expect("joined").after_sequence == 6
        send(service, session_id, "now")
        assert [many.expect("entry").sequence for _ in range(2)] == [7, 8]

    def test_a_session_that_was_left_is_heard_again_after_a_join(
        self, service: Serve, many: ManyWatched
    ) -> None:
        session_id, other = talked(service, 1), talked(service, 1)
        many.join(other)
        many.expect("joined")
        many.join(session_id, 1)
        many.expect("joined")
        assert many.expect("entry").sequence == 2
        many.leave(session_id)
        assert many.expect("end") == session_service_pb2.WatchSessionsResponse.End(session_id=session_id)
        send(service, session_id, "unseen")
        replies(service, session_id, 2)
        send(service, other, "seen")
        for sequence in (3, 4):
            entry = many.expect("entry")
            assert (entry.session_id, entry.sequence) == (other, sequence)
        many.join(session_id, 2)
        assert many.expect("joined").session.last_sequence == 4
        assert [many.expect("entry").sequence for _ in range(2)] == [3, 4]

    def test_join_begins_anew_from_another_sequence(self, service: Serve, many: ManyWatched) -> None:
        session_id = talked(service, 2)
        for after in (0, 3, 1, 0):
            many.join(session_id, after)
            assert many.expect("joined").after_sequence == after
            assert [many.expect("entry").sequence for _ in range(4 - after)] == list(range(after + 1, 5))

    def test_joins_and_leaves_while_entries_come_skip_and_repeat_nothing(
        self, service: Serve, many: ManyWatched
    ) -> None:
        """After `joined` comes the entry behind its sequence, then each next one; after `end` nothing, until
        it is joined again.
        """
        session_id = talked(service, 1)
        stop = threading.Event()

        def talk() -> None:
            while not stop.is_set():
                send(service, session_id, "on and on")

        talkers = [threading.Thread(target=talk) for _ in range(3)]
        for talker in talkers:
            talker.start()
        wrong = []
        try:
            for turn in range(50):
                many.join(session_id, 0)
                (many.leave if turn % 2 else many.join)(session_id)
            many.join(session_id, 0)
            many.half_close()
            last: int | None = None
            while True:
                try:
                    kind, event = many.event()
                except StopIteration:
                    break
                match kind:
                    case "joined":
                        last = event.after_sequence
                    case "end":
                        last = None
                    case "entry":
                        if last is None or event.sequence != last + 1:
                            wrong.append(
                                f"entry {event.sequence} where {'none' if last is None else last + 1} was "
                                "to come"
                            )
                        last = None if last is None else event.sequence
        finally:
            stop.set()
            for talker in talkers:
                talker.join()
        assert wrong == []

    def test_ends_of_sessions_leave_the_others(self, service: Serve, many: ManyWatched) -> None:
        expiring, deleted, staying = (
            talked(service, 1),
            talked(service, 1),
            talked(service, 1, timeout_minutes=300),
        )
        for session_id in (expiring, deleted, staying):
            many.join(session_id)
            many.expect("joined")
        delete(service, deleted)
        assert many.expect("deleted") == log_pb2.SessionDeleted(session_id=deleted)
        end = many.expect("end")
        assert (end.session_id, reason(end), dict(end.details)) == (
            deleted,
            "SESSION_NOT_FOUND",
            {"sessionId": deleted},
        )
        assert end.message
        service.advance(minutes=30)
        assert many.expect("entry").HasField("expiry")
        assert many.expect("end") == session_service_pb2.WatchSessionsResponse.End(session_id=expiring)
        send(service, staying, "alone")
        assert many.expect("entry").session_id == staying

    def test_a_join_of_a_session_that_has_expired_ends_behind_its_expiry(
        self, service: Serve, many: ManyWatched
    ) -> None:
        session_id = talked(service, 1)
        service.advance(minutes=31)
        many.join(session_id, 1)
        many.expect("joined")
        assert [many.expect("entry").sequence for _ in range(2)] == [2, 3]
        assert many.expect("end") == session_service_pb2.WatchSessionsResponse.End(session_id=session_id)

    @pytest.mark.parametrize("after", [None, 0])
    def test_an_end_has_the_id_in_lower_case(
        self, service: Serve, many: ManyWatched, after: int | None
    ) -> None:
        left, expiring, deleted = (talked(service, 1).upper() for _ in range(3))
        for session_id in (left, expiring, deleted):
            many.join(session_id, after)
            many.expect("joined")
            for _ in range(0 if after is None else 2):
                many.expect("entry")
        many.leave(left)
        assert many.expect("end").session_id == left.lower()
        delete(service, deleted)
        assert many.expect("deleted").session_id == deleted.lower()
        assert many.expect("end").session_id == deleted.lower()
        service.advance(minutes=31)
        assert many.expect("entry").HasField("expiry")
        assert many.expect("end").session_id == expiring.lower()

    def test_joins_that_cannot_be_end_with_their_reason(self, service: Serve, many: ManyWatched) -> None:
        session_id, expired = talked(service, 1, timeout_minutes=300), talked(service, 1)
        service.advance(minutes=31)
        for joined, after, why, details in (
            (UNKNOWN, 0, "SESSION_NOT_FOUND", {"sessionId": UNKNOWN}),
            ("Not a UUID", None, "SESSION_NOT_FOUND", {"sessionId": "not a uuid"}),
            (expired, 3, "SESSION_EXPIRED", {"sessionId": expired}),
            (expired, None, "SESSION_EXPIRED", {"sessionId": expired}),
            (session_id, 3, "INVALID_FIELD", {"field": "after_sequence", "value": "3"}),
            (session_id, -1, "INVALID_FIELD", {"field": "after_sequence", "value": "-1"}),
        ):
            many.join(joined, after)
            end = many.expect("end")
            assert (end.session_id, reason(end)) == (joined.lower(), why)
            assert set(end.details) == set(TABLE[why].details)
            assert {name: end.details[name].lower() for name in details} == details
            assert end.message
        many.ask(session_service_pb2.WatchSessionsRequest())
        assert reason(many.expect("end")) == "MISSING_FIELDS"
        many.leave(UNKNOWN)
        assert many.expect("end") == session_service_pb2.WatchSessionsResponse.End(session_id=UNKNOWN)
        many.join(session_id, 0)
        many.expect("joined")
        assert many.expect("entry").sequence == 1

    def test_a_half_close_ends_it(self, service: Serve, many: ManyWatched) -> None:
        session_id = talked(service, 1)
        many.join(session_id, 0)
        for kind in ("joined", "entry", "entry"):
            many.expect(kind)
        many.half_close()
        ends(many)

    def test_a_half_close_ends_a_stream_without_requests(self, many: ManyWatched) -> None:
        many.half_close()
        ends(many)
