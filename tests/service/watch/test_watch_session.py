"""WatchSession, as a client meets it."""

import signal
import threading
from contextlib import closing

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from eliza.sessions import values
from eliza.sessions.v1 import (
    clock_service_pb2,
    log_pb2,
    message_service_pb2,
    session_service_pb2,
)
from tests.service.watch.changes import MINUTE, delete, talked
from tests.support.clients import ended, fails, history, send
from tests.support.realtime.streams import ManyWatched, Watching, ends
from tests.support.service import ECHO, UNKNOWN, Serve, Start


def sequences(entries: list[log_pb2.LogEntry]) -> list[int]:
    return [entry.sequence for entry in entries]


def kinds(entries: list[log_pb2.LogEntry]) -> list[str | None]:
    return [entry.WhichOneof("event") for entry in entries]


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

    def test_an_expiry_that_fell_due_while_the_service_was_down_ends_it(self, start: Start) -> None:
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

    def test_a_session_that_is_not_there_is_not_found(self, service: Serve) -> None:
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
    def test_a_sequence_that_is_not_in_the_log_is_refused(self, service: Serve, after: int) -> None:
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


def _now_request() -> object:
    return clock_service_pb2.GetClockRequest()


def _set_clock(service: Serve, now_ms: int) -> None:
    now = Timestamp()
    now.FromMilliseconds(now_ms)
    service.clock.SetClock(clock_service_pb2.SetClockRequest(now=now), timeout=10)
