"""What workers of the Python client do with a service that loses and refuses things."""

import queue
import threading
from collections.abc import Iterator
from typing import Any

import grpc

from eliza.sessions.v1 import agent_service_pb2 as pb
from eliza.sessions.v1.errors_pb2 import ERROR_REASON_OVERLOADED
from eliza_sessions_client import Turn, agent
from tests.service.python_client.fake import Seen, fake
from tests.service.python_client.working import working
from tests.support.service import ECHO


class Scripted:
    """A service for one worker: it gives a delivery, and a test says what becomes of the reply."""

    def __init__(self) -> None:
        self.replies = queue.SimpleQueue[str]()
        self.connections = 0

    def connect(self, seen: Seen, context: grpc.ServicerContext) -> Iterator[pb.ConnectResponse]:
        self.connections += 1
        says = seen.request
        assert next(says).hello.agent_id == ECHO
        yield pb.ConnectResponse(welcome={"agent": {"name": "scripted"}})
        yield from self.serve(says, context)

    def serve(self, says: Any, context: grpc.ServicerContext) -> Iterator[pb.ConnectResponse]:
        raise NotImplementedError

    def reply(self, says: Any) -> None:
        """Waits for the worker's reply."""
        said = next(one for one in says if one.HasField("reply"))
        self.replies.put(said.reply.reply.content)


DELIVERY = pb.ConnectResponse(delivery={"delivery_id": "d", "message": {"content": "Hello!"}})
ACCEPTED = pb.ConnectResponse(accepted={"delivery_id": "d"})


@agent(ECHO)
async def twice_never(turn: Turn) -> str:
    """Answers anew each time, which shows whether it was asked twice."""
    _asked.append(turn)
    return f"answer {len(_asked)}"


_asked: list[Turn] = []


def test_a_reply_that_may_be_lost_is_given_again_and_not_made_again() -> None:
    class Losing(Scripted):
        def serve(self, says: Any, context: grpc.ServicerContext) -> Iterator[pb.ConnectResponse]:
            # Also the second time: the service does not know the reply yet.
            yield DELIVERY
            self.reply(says)
            if self.connections == 1:
                context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            yield ACCEPTED
            next(says, None)

    _asked.clear()
    script = Losing()
    with fake(script.connect) as service, working(twice_never, service.address) as worker:
        assert script.replies.get(timeout=30) == "answer 1"
        assert script.replies.get(timeout=30) == "answer 1"
        worker.stop()
    assert (len(_asked), script.connections) == (1, 2)


def test_a_reply_that_the_service_cannot_store_now_is_given_again() -> None:
    class Busy(Scripted):
        def serve(self, says: Any, context: grpc.ServicerContext) -> Iterator[pb.ConnectResponse]:
            yield DELIVERY
            self.reply(says)
            refused = pb.ConnectResponse.Refused(
                delivery_id="d", reason=ERROR_REASON_OVERLOADED, details={"retryAfterSeconds": "0.1"}
            )
            yield pb.ConnectResponse(refused=refused)
            self.reply(says)
            yield ACCEPTED
            next(says, None)

    _asked.clear()
    script = Busy()
    with fake(script.connect) as service, working(twice_never, service.address) as worker:
        assert script.replies.get(timeout=30) == "answer 1"
        assert script.replies.get(timeout=30) == "answer 1"
        worker.stop()
    assert len(_asked) == 1


def test_it_waits_for_the_fate_of_its_reply_before_it_stops() -> None:
    held = threading.Event()

    class Slow(Scripted):
        def serve(self, says: Any, context: grpc.ServicerContext) -> Iterator[pb.ConnectResponse]:
            yield DELIVERY
            self.reply(says)
            held.wait(60)
            yield ACCEPTED
            next(says, None)

    script = Slow()
    with fake(script.connect) as service, working(twice_never, service.address) as worker:
        script.replies.get(timeout=30)
        worker.tell_to_stop()
        assert not worker.has_ended(within=0.3)
        held.set()
        worker.wait()


def test_a_function_that_gives_no_token_is_asked_again() -> None:
    class Once(Scripted):
        def serve(self, says: Any, context: grpc.ServicerContext) -> Iterator[pb.ConnectResponse]:
            self.replies.put("connected")
            next(says, None)
            yield from ()

    given = iter([LookupError("no token yet"), "good"])

    def token() -> str:
        found = next(given)
        if isinstance(found, Exception):
            raise found
        return found

    script = Once()
    with fake(script.connect) as service, working(twice_never, service.address, token=token) as worker:
        assert script.replies.get(timeout=30) == "connected"
        assert service.seen[0].metadata["authorization"] == "Bearer good"
        worker.stop()
