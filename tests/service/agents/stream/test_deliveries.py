"""What a worker is given, and how its chunks and failures reach the client."""

import json
from concurrent.futures import ThreadPoolExecutor

from google.protobuf import json_format

from eliza.sessions import values
from eliza.sessions.limits import MAX_ATTACHMENTS_BYTES
from eliza.sessions.v1.message_service_pb2 import SendMessageRequest
from tests.service.agents.stream.reading import UNKNOWN, exchanged, failure
from tests.service.agents.worker import Worker, stream_agent
from tests.support.clients import create, history, replies, send
from tests.support.realtime.streams import Watching
from tests.support.service import USER, Serve


class TestDeliveries:
    def test_a_delivery_has_the_session_and_the_history_that_was_asked_for(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        created = service.create(agentId=agent_id, metadata={"tier": "gold", "tags": [1, None]})
        session_id = created["sessionId"]
        with Worker(service.channel, agent_id, history=3) as worker:
            for content in ("one", "two"):
                send(service, session_id, content)
            first = worker.next()
            assert (first.attempt, first.message.content, list(first.history)) == (1, "one", [])
            assert json_format.MessageToDict(first.session.metadata) == {"tier": "gold", "tags": [1, None]}
            assert (first.session.session_id, first.session.user_id, first.session.agent_id) == (
                session_id,
                USER,
                agent_id,
            )
            assert first.lease_expires_at.ToMilliseconds() > first.message.created_at.ToMilliseconds()
            worker.answer(first, "ONE")
            second = worker.next()
            # The reply to "one" is behind it, though "two" was there before.
            assert [message.content for message in second.history] == ["one", "ONE"]
            worker.answer(second, "TWO")
            send(service, session_id, "three")
            third = worker.next()
            assert [message.content for message in third.history] == ["ONE", "two", "TWO"]
            worker.answer(third, "THREE")
        stored = history(service, session_id)
        assert [message.content for message in stored] == ["one", "two", "ONE", "TWO", "three", "THREE"]
        told = [third.message, *third.history]
        assert all(message.HasField("own_metadata") for message in told)
        for message in told:
            message.ClearField("own_metadata")
        assert told == [stored[4], stored[2], stored[1], stored[3]]
        assert [delivery.history_left_out for delivery in (first, second, third)] == [0, 0, 0]
        assert [message.message_id for message in stored if message.is_agent] == [
            d.reply_message_id for d in (first, second, third)
        ]
        with Worker(service.channel, agent_id) as worker:
            send(service, session_id, "four")
            assert list(worker.next().history) == []

    def test_a_delivery_fits_a_default_client_and_tells_what_it_leaves_out(self, service: Serve) -> None:
        """Two large messages, of a user and of an agent, do not fit together; the store itself stops earlier
        than that.
        """
        agent_id = stream_agent(service)
        session_id = create(service, agent_id).session_id
        large = ["x" * (MAX_ATTACHMENTS_BYTES - 4)]
        seen = []
        with Worker(service.channel, agent_id, history=20) as worker:
            for content, attached in (("one", None), ("two", large), ("three", None)):
                request = SendMessageRequest(
                    session_id=session_id, content=content, attachments=values.list_value(large)
                )
                service.messages.SendMessage(request, timeout=30)
                delivery = worker.next()
                assert (delivery.attempt, delivery.message.content) == (1, content)
                assert values.plain_list(delivery.message.attachments) == large
                seen.append(delivery)
                worker.answer(delivery, content.upper(), attachments=attached)
            send(service, session_id, "four")
            seen.append(worker.next())
        with Worker(service.channel, agent_id, history=2) as worker:
            # Given again: only what this worker asks for counts.
            seen.append(worker.next())
        told = [
            ([message.content for message in delivery.history], delivery.history_left_out)
            for delivery in seen
        ]
        assert told == [([], 0), (["ONE"], 1), ([], 4), (["THREE"], 5), (["THREE"], 1)]

    def test_what_a_user_overlays_can_be_told_from_what_the_session_has(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        session_id = service.create(agentId=agent_id, metadata={"plan": "free", "tier": 1})["sessionId"]
        said = [{"plan": "admin", "sessionId": UNKNOWN}, None]
        with Worker(service.channel, agent_id, history=5) as worker:
            for metadata, own in zip(said, ({"plan": "admin", "sessionId": UNKNOWN}, {}), strict=True):
                body = {"content": "hello", "metadata": metadata}
                sent = service.http.post(f"{service.url}/{session_id}/messages", json=body, timeout=10).json()
                delivery = worker.next()
                assert values.plain(delivery.session.metadata) == {"plan": "free", "tier": 1}
                assert values.plain(delivery.message.metadata) == sent["metadata"]
                assert delivery.message.HasField("own_metadata")
                assert values.plain(delivery.message.own_metadata) == own
                worker.answer(delivery, "hi", metadata={"plan": "agent's"})
        assert sent["metadata"] == {"plan": "free", "tier": 1, "sessionId": session_id}
        own = [values.plain(message.own_metadata) for message in delivery.history]
        assert own == [{"plan": "admin", "sessionId": UNKNOWN}, {"plan": "agent's"}]
        assert [values.plain(message.metadata)["plan"] for message in delivery.history] == [
            "admin",
            "agent's",
        ]
        # Nobody but agents is told.
        assert not any(message.HasField("own_metadata") for message in history(service, session_id))

    def test_a_worker_has_no_more_than_it_takes(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        sessions = [create(service, agent_id).session_id for _ in range(12)]
        for session_id in sessions:
            send(service, session_id, "hello")
        with Worker(service.channel, agent_id, max_deliveries=3) as worker:
            held = [worker.next() for _ in range(3)]
            for _ in range(9):
                # One more would come before this is accepted.
                worker.answer(held.pop(0), "hi")
                held.append(worker.next())
            for delivery in held:
                worker.answer(delivery, "hi")
        assert all(exchanged(service, session_id, 1) == [("hello", "hi")] for session_id in sessions)

    def test_many_workers_share(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        sessions = [create(service, agent_id).session_id for _ in range(4)]
        with (
            Worker(service.channel, agent_id, max_deliveries=2) as one,
            Worker(service.channel, agent_id) as two,
            Worker(service.channel, agent_id) as three,
        ):
            for session_id in sessions:
                send(service, session_id, "hello")
            for worker, count in ((one, 2), (two, 1), (three, 1)):
                for delivery in [worker.next() for _ in range(count)]:
                    worker.answer(delivery, "hi")
        assert all(exchanged(service, session_id, 1) == [("hello", "hi")] for session_id in sessions)

    def test_chunks_are_streamed_and_the_reply_shows(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        session_id = service.create(agentId=agent_id)["sessionId"]
        url, watching, events = f"{service.url}/{session_id}/messages", Watching(service, session_id), []
        parts = {
            "metadata": {"mood": "calm"},
            "attachments": [{"url": "a.png"}],
            "thought": "easy",
            "actions": ("REPLY", "WAVE"),
        }
        with Worker(service.channel, agent_id) as worker, ThreadPoolExecutor(1) as pool:
            asked = pool.submit(
                service.http.post, url, json={"content": "hello", "transport": "sse"}, timeout=10
            )
            delivery = worker.next()
            for text in ("Good ", "", "morning"):
                worker.chunk(delivery, text)
            worker.answer(delivery, "Good morning", **parts)
            for block in asked.result().text.strip().split("\n\n"):
                fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
                events.append((fields["event"], json.loads(fields["data"])))
        assert [name for name, _ in events] == ["user_message", "chunk", "chunk", "done"]
        assert [
            (data["chunk"], data["index"], data["messageId"]) for name, data in events if name == "chunk"
        ] == [
            ("Good ", 0, delivery.reply_message_id),
            ("morning", 1, delivery.reply_message_id),
        ]
        shown = {
            "content": "Good morning",
            "id": delivery.reply_message_id,
            "isAgent": True,
            "authorId": agent_id,
        }
        done = events[-1][1]
        assert (
            done.items()
            >= {**shown, "text": "Good morning", "thought": "easy", "actions": ["REPLY", "WAVE"]}.items()
        )
        seen = [watching.event() for _ in range(4)]
        watching.close()
        assert [event.chunk for event in seen[1:3]] == ["Good ", "morning"]
        assert seen[3].message.message_id == delivery.reply_message_id
        (newest, _) = service.http.get(url, timeout=10).json()["messages"]
        assert newest.items() >= shown.items()
        assert (
            newest["metadata"].items()
            >= {"mood": "calm", "thought": "easy", "actions": ["REPLY", "WAVE"]}.items()
        )
        (stored,) = replies(service, session_id, 1)
        assert json_format.MessageToDict(stored.attachments) == [{"url": "a.png"}]
        assert (stored.thought, list(stored.actions), stored.reply_to_sequence) == (
            "easy",
            ["REPLY", "WAVE"],
            1,
        )

    def test_a_failure_is_tried_again_and_a_final_one_is_told(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        session_id = create(service, agent_id).session_id
        with Worker(service.channel, agent_id) as worker:
            message = send(service, session_id, "hello")
            for attempt in (1, 2, 3):
                delivery = worker.next()
                assert (delivery.message.message_id, delivery.attempt) == (message.message_id, attempt)
                worker.fail(delivery, "the model is asleep")
            found = failure(service, session_id)
            assert (found.message_id, found.message_sequence) == (message.message_id, message.sequence)
            assert (found.reason, found.attempts) == ("the model is asleep", 3)
            with ThreadPoolExecutor(1) as pool:
                request = {"content": "again", "transport": "http"}
                asked = pool.submit(
                    service.http.post, f"{service.url}/{session_id}/messages", json=request, timeout=10
                )
                worker.fail(worker.next(), final=True)
                assert (asked.result().status_code, asked.result().json()["code"]) == (
                    502,
                    "AGENT_REPLY_FAILED",
                )
                assert asked.result().json()["details"]["reason"] == "the agent gave no reason"
            send(service, session_id, "and now")
            worker.answer(worker.next(), "hi")
        assert exchanged(service, session_id, 1) == [("and now", "hi")]
