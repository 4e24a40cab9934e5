"""A worker of an agent of the kind `stream`, as a test drives it: one step at a time."""

import queue
from collections.abc import Iterator
from typing import Any

import grpc

from eliza.sessions import values
from eliza.sessions.v1 import agent_pb2
from eliza.sessions.v1 import agent_service_pb2 as pb
from tests.support.service import Serve
from tests.support.waiting import PATIENCE_SECONDS


def stream_agent(service: Serve, name: str = "worked") -> str:
    """Registers an agent of the kind `stream`; returns its id."""
    agent = agent_pb2.Agent(name=name, kind=agent_pb2.AGENT_KIND_STREAM)
    return service.agents.CreateAgent(pb.CreateAgentRequest(agent=agent), timeout=10).agent.agent_id


def agent_reply(
    content: str,
    *,
    metadata: dict | None = None,
    attachments: list | None = None,
    thought: str | None = None,
    actions: tuple[str, ...] = (),
) -> pb.AgentReply:
    """A reply as an agent gives it."""
    reply = pb.AgentReply(content=content, thought=thought, actions=actions)
    if metadata is not None:
        reply.metadata.CopyFrom(values.struct(metadata))
    if attachments is not None:
        reply.attachments.CopyFrom(values.list_value(attachments))
    return reply


class Worker:
    """A connected worker (`agent` is what it was welcomed with). What it says is sent at once; what it is
    told waits until it is read.

    Deliveries are named by themselves or by their id. A context manager, which closes it.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        agent_id: str,
        max_deliveries: int = 0,
        history: int = 0,
        patience: float = PATIENCE_SECONDS,
        json_form: Any = None,
    ) -> None:
        """Connects and waits for the welcome. Raises grpc.RpcError where there is none."""
        self._said: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        # Bytes, so that a worker can say what Python's protobuf would not.
        connect = channel.stream_stream(
            "/eliza.sessions.v1.AgentService/Connect", None, pb.ConnectResponse.FromString
        )
        self.call = connect(self._requests(), timeout=patience)
        hello = pb.ConnectRequest.Hello(
            agent_id=agent_id, max_deliveries=max_deliveries, history_messages=history, json_form=json_form
        )
        self.say(hello=hello)
        try:
            self.agent: agent_pb2.Agent = self.expect("welcome").agent
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _requests(self) -> Iterator[bytes]:
        while (said := self._said.get()) is not None:
            yield said

    def say(self, **part: Any) -> None:
        """Sends any request."""
        self.say_bytes(pb.ConnectRequest(**part).SerializeToString())

    def say_bytes(self, raw: bytes) -> None:
        """Sends bytes as they are."""
        self._said.put(raw)

    def told(self) -> tuple[str, Any]:
        """What comes next, as its kind and its value; heartbeats are passed over."""
        while True:
            response = next(self.call)
            kind = response.WhichOneof("part")
            if kind != "heartbeat":
                return kind, getattr(response, kind)

    def expect(self, kind: str) -> Any:
        """What comes next, which must be of this kind."""
        found, value = self.told()
        assert found == kind, (found, value)
        return value

    def next(self) -> pb.Delivery:
        """The next delivery."""
        delivery: pb.Delivery = self.expect("delivery")
        return delivery

    def chunk(self, delivery: pb.Delivery | str, text: str) -> None:
        """Sends a piece of the reply ahead."""
        self.say(chunk=pb.ConnectRequest.Chunk(delivery_id=_id(delivery), chunk=text))

    def reply(self, delivery: pb.Delivery | str, content: str, **parts: Any) -> None:
        """Replies (`parts` as in `agent_reply`); `accepted` or `refused` is told."""
        self.say(
            reply=pb.ConnectRequest.Reply(delivery_id=_id(delivery), reply=agent_reply(content, **parts))
        )

    def answer(self, delivery: pb.Delivery | str, content: str, **parts: Any) -> None:
        """Replies, and waits until that is accepted."""
        self.reply(delivery, content, **parts)
        assert self.expect("accepted").delivery_id == _id(delivery)

    def fail(self, delivery: pb.Delivery | str, reason: str = "", *, final: bool = False) -> None:
        """Says that it cannot answer."""
        self.say(failure=pb.ConnectRequest.Failure(delivery_id=_id(delivery), reason=reason, final=final))

    def leave(self) -> None:
        """Says no more; the service then ends the stream."""
        self._said.put(None)

    def close(self) -> None:
        """Is gone at once."""
        self.leave()
        self.call.cancel()


def _id(delivery: pb.Delivery | str) -> str:
    return delivery if isinstance(delivery, str) else delivery.delivery_id
