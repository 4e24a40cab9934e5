"""WatchSession and WatchSessions, as a client of a real service sees them."""

import signal
import threading
from collections.abc import Iterator
from contextlib import closing

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from eliza.sessions import values
from eliza.sessions.errors import TABLE
from eliza.sessions.v1 import (
    clock_service_pb2,
    errors_pb2,
    log_pb2,
    message_service_pb2,
    session_service_pb2,
    timeout_pb2,
)
from tests.support.clients import create, ended, fails, history, replies, send
from tests.support.realtime.streams import ManyWatched, Watching, ends
from tests.support.service import ECHO, UNKNOWN, Serve, Start

MINUTE = 60_000


def talked(service: Serve, messages: int = 3, **timeout: float | bool) -> str:
    """A session with so many messages and their replies."""
    session_id = create(service, **timeout).session_id
    for number in range(messages):
        send(service, session_id, f"message {number}")
        replies(service, session_id, number + 1)
    return session_id


def delete(service: Serve, session_id: str) -> None:
    service.sessions.DeleteSession(
        session_service_pb2.DeleteSessionRequest(session_id=session_id), timeout=10
    )


def heartbeat(service: Serve, session_id: str) -> None:
    service.sessions.SendHeartbeat(
        session_service_pb2.SendHeartbeatRequest(session_id=session_id), timeout=10
    )


def renew(service: Serve, session_id: str) -> None:
    service.sessions.RenewSession(session_service_pb2.RenewSessionRequest(session_id=session_id), timeout=10)


def patch(service: Serve, session_id: str, **change: float | bool) -> None:
    request = session_service_pb2.UpdateTimeoutRequest(
        session_id=session_id, timeout_config=timeout_pb2.TimeoutConfig(**change)
    )
    service.sessions.UpdateTimeout(request, timeout=10)


def sequences(entries: list[log_pb2.LogEntry]) -> list[int]:
    return [entry.sequence for entry in entries]


def kinds(entries: list[log_pb2.LogEntry]) -> list[str | None]:
    return [entry.WhichOneof("event") for entry in entries]


def reason(end: object) -> str:
    assert isinstance(end, session_service_pb2.WatchSessionsResponse.End)
    return errors_pb2.ErrorReason.Name(end.reason).removeprefix("ERROR_REASON_")


@pytest.fixture
def many(service: Serve) -> Iterator[ManyWatched]:
    with closing(ManyWatched(service)) as stream:
        yield stream


class TestWatchSession:
    def test_a_watch_from_the_beginning_has_every_entry(self, service: Serve) -> None:
        session_id = talked(service)
        with closing(Watching(service, session_id)) as watching:
            entries = watching.entries(6)
        assert sequences(entries) == [1, 2, 3, 4, 5, 6]
        assert [entry.message for entry in entries] == history(service, session_id)
        assert all(
            entry.session_id == session_id and entry.at == entry.message.created_at for entry in entries
        )

    @pytest.mark.parametrize("after", range(6))
    def test_a_watch_from_any_entry_has_those_behind_it(self, service: Serve, after: int) -> None:
        session_id = talked(service)
        with closing(Watching(service, session_id, after)) as watching:
            assert sequences(watching.entries(6 - after)) == list(range(after + 1, 7))

    def test_an_id_in_capitals_is_the_same_session(self, service: Serve) -> None:
        session_id = talked(service, 1)
        with closing(Watching(service, session_id.upper())) as watching:
            assert watching.entry().session_id == session_id

    def test_what_is_stored_goes_over_into_what_is_live(self, service: Serve) -> None:
        """More than a page of entries, while more are made: no gap and no repeat."""
        session_id = talked(service, 1)
        total = 150
        sender = threading.Thread(target=lambda: [send(service, session_id, f"{n}") for n in range(total)])
        sender.start()
        streams = []
        for after in (0, 1, 2, 0, 2):
            streams.append((after, Watching(service, session_id, after)))
            streams[-1][1].entries(2)
        count = 2 + 2 * total
        for after, watching in streams:
            with closing(watching):
                assert sequences(watching.entries(count - after - 2)) == list(range(after + 3, count + 1))
        sender.join()

    def test_a_watch_from_the_last_entry_is_live(self, service: Serve) -> None:
        session_id = talked(service, 1)
        with closing(Watching(service, session_id, 2)) as watching:
            send(service, session_id, "live")
            assert [entry.message.content for entry in watching.entries(2)] == ["live", "live"]

    def test_chunks_stand_between_the_message_and_its_reply(self, service: Serve) -> None:
        session_id = talked(service, 1)
        with closing(Watching(service, session_id, 1)) as watching:
            watching.entry()
            for said in ("one two  three", "four"):
                send(service, session_id, said)
                asked = watching.event()
                assert isinstance(asked, log_pb2.LogEntry)
                assert (asked.message.content, asked.message.is_agent) == (said, False)
                chunks = []
                while isinstance(event := watching.event(), log_pb2.ReplyChunk):
                    chunks.append(event)
                assert (event.message.content, event.message.is_agent) == (said, True)
                assert "".join(chunk.chunk for chunk in chunks) == said
                assert [chunk.index for chunk in chunks] == list(range(len(said.split())))
                assert {(chunk.session_id, chunk.agent_id, chunk.message_id) for chunk in chunks} == {
                    (session_id, ECHO, event.message.message_id)
                }

    def test_chunks_keep_to_their_messages_where_many_are_sent_at_once(self, service: Serve) -> None:
        session_id = talked(service, 1)
        with closing(Watching(service, session_id, 1)) as watching:
            watching.entry()
            calls = [
                service.messages.SendMessage.future(
                    message_service_pb2.SendMessageRequest(
                        session_id=session_id, content=f"words of {number}"
                    ),
                    timeout=30,
                )
                for number in range(20)
            ]
            asked = [call.result().message.sequence for call in calls]
            of_reply: dict[str, list[str]] = {}
            answered: list[str] = []
            told: list[int] = []
            while len(answered) < 20:
                event = watching.event()
                if isinstance(event, log_pb2.ReplyChunk):
                    assert event.message_id not in answered, "a chunk comes after its reply"
                    number = len(answered)
                    assert len(told) > number, "a chunk comes before the message that it answers"
                    of_reply.setdefault(event.message_id, []).append(event.chunk)
                elif event.message.is_agent:
                    assert "".join(of_reply[event.message.message_id]) == event.message.content
                    answered.append(event.message.message_id)
                else:
                    told.append(event.sequence)
            assert sorted(asked) == told

    def test_heartbeats_come_where_nothing_happens(self, start: Start) -> None:
        service = start("--no-rest", TEST_CLOCK="1", STREAM_HEARTBEAT_SECONDS="0.2")
        session_id = talked(service, 1)
        with closing(Watching(service, session_id, 2)) as watching, closing(ManyWatched(service)) as many:
            now = values.ms_floor(service.clock.GetClock(_now_request(), timeout=10).now)
            for call in (watching.call, many.call):
                for _ in range(2):
                    response = next(call)
                    assert values.ms_floor(response.heartbeat.now) == now
            service.advance(minutes=1)
            while (beat := next(watching.call).heartbeat) and values.ms_floor(beat.now) != now + MINUTE:
                assert values.ms_floor(beat.now) == now
            send(service, session_id, "still there")
            assert watching.entry().message.content == "still there"

    def test_the_expiry_ends_it(self, service: Serve) -> None:
        session_id = talked(service, 1)
        with closing(Watching(service, session_id)) as watching:
            watching.entries(2)
            service.advance(minutes=25)
            assert watching.entry().HasField("expiration_warning")
            service.advance(minutes=5)
            assert watching.entry().HasField("expiry")
            ends(watching)

    def test_an_expiry_in_the_past_ends_it(self, service: Serve) -> None:
        session_id = talked(service, 1)
        service.advance(minutes=31)
        for after in range(3):
            with closing(Watching(service, session_id, after)) as watching:
                entries = watching.rest()
                assert sequences(entries) == list(range(after + 1, 4))
                assert kinds(entries)[-1] == "expiry"
                assert watching.call.code() == grpc.StatusCode.OK

    def test_an_expiry_that_fell_due_while_the_service_was_down(self, start: Start) -> None:
        service = start("--no-rest", TEST_CLOCK="1")
        session_id = talked(service, 1)
        now = service.clock.GetClock(_now_request(), timeout=10).now
        service.kill()
        service = start("--no-rest", TEST_CLOCK="1")
        with closing(Watching(service, session_id, 2)) as watching:
            _set_clock(service, values.ms_floor(now) + 40 * MINUTE)
            assert watching.entry().HasField("expiry")
            ends(watching)

    def test_nothing_is_left_of_an_expired_session(self, service: Serve) -> None:
        session_id = talked(service, 1)
        service.advance(minutes=31)
        details = fails(lambda: Watching(service, session_id, 3).event(), "SESSION_EXPIRED")
        assert details["sessionId"] == session_id

    def test_a_session_that_is_not_there(self, service: Serve) -> None:
        for session_id in (UNKNOWN, "no uuid", ""):
            fails(lambda session_id=session_id: Watching(service, session_id).event(), "SESSION_NOT_FOUND")

    def test_a_deletion_ends_it(self, service: Serve) -> None:
        session_id = talked(service, 1)
        with closing(Watching(service, session_id)) as watching:
            watching.entries(2)
            delete(service, session_id)
            assert watching.event() == log_pb2.SessionDeleted(session_id=session_id)
            assert fails(watching.event, "SESSION_NOT_FOUND") == {"sessionId": session_id}

    def test_a_deletion_right_after_a_message_ends_it(self, service: Serve) -> None:
        """Whatever of the message and its reply was still to be told is gone."""
        for _ in range(20):
            session_id = talked(service, 1)
            with closing(Watching(service, session_id)) as watching:
                watching.entries(2)
                sent = [
                    service.messages.SendMessage.future(
                        message_service_pb2.SendMessageRequest(session_id=session_id, content="a b c"),
                        timeout=30,
                    )
                    for _ in range(5)
                ]
                sent[0].result()
                delete(service, session_id)
                read: list[session_service_pb2.WatchSessionResponse] = []
                fails(
                    lambda watching=watching, read=read: read.extend(iter(watching.call)), "SESSION_NOT_FOUND"
                )
                assert [response for response in read if response.HasField("deleted")] == read[-1:]

    @pytest.mark.parametrize("after", [-1, 3, 2**62, -(2**63)])
    def test_a_sequence_that_is_not_in_the_log(self, service: Serve, after: int) -> None:
        session_id = talked(service, 1)
        details = fails(lambda: Watching(service, session_id, after).event(), "INVALID_FIELD")
        assert (details["field"], details["value"]) == ("after_sequence", str(after))

    def test_a_shutdown_ends_every_stream_at_once(self, start: Start) -> None:
        service = start("--no-rest", SHUTDOWN_GRACE_SECONDS="600", STREAM_HEARTBEAT_SECONDS="600")
        session_id = talked(service, 1)
        with closing(Watching(service, session_id)) as watching, closing(ManyWatched(service)) as many:
            watching.entries(2)
            many.join(session_id, 0)
            for kind in ("joined", "entry", "entry"):
                many.expect(kind)
            service.process.send_signal(signal.SIGTERM)
            fails(watching.event, "UNAVAILABLE")
            fails(many.event, "UNAVAILABLE")
            assert ended(service) == 0
        assert "Traceback" not in service.log()

    def test_a_shutdown_ends_a_stream_that_watches_nothing(self, start: Start) -> None:
        """As the REST facade's is while no socket has joined."""
        service = start("--no-rest", SHUTDOWN_GRACE_SECONDS="600", STREAM_HEARTBEAT_SECONDS="600")
        with closing(ManyWatched(service)) as many:
            many.leave(UNKNOWN)
            many.expect("end")
            service.process.send_signal(signal.SIGTERM)
            assert ended(service) == 0
            fails(many.event, "UNAVAILABLE")


class TestEntries:
    def test_each_tells_how_the_session_stood(self, service: Serve) -> None:
        created = create(service, timeout_minutes=30, max_duration_minutes=100, warning_threshold_minutes=5)
        session_id, begun = created.session_id, values.ms_floor(created.created_at)
        with closing(Watching(service, session_id)) as watching:

            def told(
                kind: str, expires_minutes: float, count: int, *, renewed: bool = False, near: bool = False
            ) -> log_pb2.LogEntry:
                entry = watching.entry()
                status = entry.session_status
                assert entry.WhichOneof("event") == kind
                assert values.ms_floor(status.expires_at) == begun + expires_minutes * MINUTE
                assert (status.renewal_count, status.was_renewed, status.is_near_expiration) == (
                    count,
                    renewed,
                    near,
                )
                return entry

            service.advance(minutes=1)
            send(service, session_id, "hello")
            told("message", 31, 1, renewed=True)
            told("message", 31, 1)
            service.advance(minutes=1)
            heartbeat(service, session_id)
            told("renewal", 32, 2, renewed=True)
            service.advance(minutes=1)
            renew(service, session_id)
            told("renewal", 33, 3, renewed=True)
            patch(service, session_id, auto_renew=False, timeout_minutes=40)
            config = told("timeout_change", 43, 3).timeout_change.timeout_config
            assert config == timeout_pb2.TimeoutConfig(
                timeout_minutes=40, auto_renew=False, max_duration_minutes=100, warning_threshold_minutes=5
            )
            heartbeat(service, session_id)
            send(service, session_id, "renews nothing")
            told("message", 43, 3)
            told("message", 43, 3)
            service.advance(minutes=35.5)
            assert told("expiration_warning", 43, 3, near=True).expiration_warning.minutes_remaining == 4.5
            send(service, session_id, "soon")
            told("message", 43, 3, near=True)
            told("message", 43, 3, near=True)
            patch(service, session_id, auto_renew=True)
            told("timeout_change", 78.5, 3)
            service.advance(minutes=1)
            renew(service, session_id)
            told("renewal", 79.5, 4, renewed=True)
            service.advance(minutes=36)
            told("expiration_warning", 79.5, 4, near=True)
            patch(service, session_id, timeout_minutes=90)
            told("timeout_change", 100, 4)
            service.advance(minutes=100)
            expiry = told("expiry", 100, 4)
            assert values.ms_floor(expiry.expiry.expired_at) == begun + 100 * MINUTE
            ends(watching)

    def test_times_strictly_increase(self, service: Serve) -> None:
        session_id = talked(service, 2)
        for _ in range(3):
            renew(service, session_id)
        with closing(Watching(service, session_id)) as watching:
            times = [values.ms_floor(entry.at) for entry in watching.entries(7)]
        assert times == sorted(set(times))


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
            for turn in range(100):
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

    def test_a_half_close_of_a_stream_without_requests(self, many: ManyWatched) -> None:
        many.half_close()
        ends(many)


def _now_request() -> object:
    return clock_service_pb2.GetClockRequest()


def _set_clock(service: Serve, now_ms: int) -> None:
    now = Timestamp()
    now.FromMilliseconds(now_ms)
    service.clock.SetClock(clock_service_pb2.SetClockRequest(now=now), timeout=10)
