"""Agents' workers, of which each delivery meets another one's habits."""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from eliza.sessions.v1 import agent_service_pb2 as agents_pb
from eliza.sessions.v1 import errors_pb2
from server.domain.errors import DomainError
from server.rpc.call import Call as Context
from tests.campaigns.simulation.calls import CALL, Call, Stream
from tests.campaigns.simulation.settings import LEASE_SECONDS
from tests.campaigns.simulation.state import require
from tests.campaigns.simulation.translation import delivery_of, received

if TYPE_CHECKING:
    from tests.campaigns.simulation.world import World

FAIR = {
    "answer": 50,
    "chunks": 10,
    "fail": 8,
    "give up": 3,
    "empty": 3,
    "hang": 6,
    "late": 6,
    "twice": 6,
    "post": 6,
    "go": 5,
}
POOR = {"answer": 10, "fail": 60, "empty": 5, "hang": 10, "late": 10, "twice": 5, "go": 5}
"""How often workers do what with a delivery, in most worlds and in some."""


class Here:
    """A caller in this process."""

    def peer(self) -> str:
        return "inproc"


class Worker:
    """A worker of an agent: it answers, fails, answers nothing, hangs, answers late, answers
    twice, or goes.
    """

    def __init__(self, world: "World", agent_id: str, capacity: int) -> None:
        self._world = world
        self._agent_id = agent_id
        self._capacity = capacity
        self._stream = Stream()
        self._sent: dict[str, deque[str]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def connect(self) -> None:
        self._world.workers[self._agent_id].append(self)
        self._tasks.append(self._world.guarded(self._run, self._world.life))

    def disconnect(self) -> None:
        self._world.note("worker goes")
        workers = self._world.workers[self._agent_id]
        if self in workers:
            workers.remove(self)
        self._world.departed.add(self._agent_id)
        for task in self._tasks:
            task.cancel()

    async def _run(self, life: int) -> None:
        CALL.set(Call({"kind": "connect"}))
        hello = agents_pb.ConnectRequest.Hello(
            agent_id=self._agent_id, max_deliveries=self._capacity, history_messages=3
        )
        self._stream.send(agents_pb.ConnectRequest(hello=hello))
        try:
            async for told in self._world.agent_service.Connect(self._stream.requests(), Context(Here())):
                response = received(agents_pb.ConnectResponse, told)
                if life != self._world.life:
                    return
                match response.WhichOneof("part"):
                    case "delivery":
                        self._world.note("given", response.delivery.delivery_id, response.delivery.attempt)
                        self._world.given(response.delivery.delivery_id, response.delivery.attempt)
                        self._check(response.delivery)
                        self._tasks.append(self._world.guarded(self._handle, response.delivery, life))
                    case "accepted":
                        self._accepted(response.accepted.delivery_id)
                    case "refused":
                        self._refused(response.refused)
        except DomainError as error:
            require(
                error.reason == "UNAVAILABLE" and (self._world.stopping or life != self._world.life),
                "a worker is sent off:",
                error,
            )

    def _check(self, delivery: agents_pb.Delivery) -> None:
        """What a worker is given is the message, with what was said before it."""
        session_id, sequence = delivery_of(delivery.delivery_id)
        log = self._world.model.log_of(session_id)
        require(
            log[sequence - 1]["content"] == delivery.message.content, "another message is given:", delivery
        )
        texts = [entry.content for entry in delivery.history]
        earlier = [
            entry["content"]
            for entry in log
            if entry["kind"] == "message" and (entry.get("answers") or entry["sequence"]) < sequence
        ]
        require(all(text in earlier for text in texts), "the history", texts, "is not of", earlier)
        said = [
            entry for entry in log[: sequence - 1] if entry["kind"] == "message" and not entry["is_agent"]
        ]
        # A session that was deleted since has no history any more.
        gone = session_id in self._world.model.gone
        require(gone or len(texts) >= min(3, len(said)), "the history is too short:", texts)

    def _accepted(self, delivery_id: str) -> None:
        content = self._sent[delivery_id].popleft()
        session_id, sequence = delivery_of(delivery_id)
        stored = [
            e["content"]
            for e in self._world.model.log_of(session_id)
            if e.get("answers") == sequence and e["kind"] == "message"
        ]
        require(stored == [content], "accepted was", content, "but stored is", stored)

    def _refused(self, refused: agents_pb.ConnectResponse.Refused) -> None:
        world, reason = self._world, errors_pb2.ErrorReason.Name(refused.reason).removeprefix("ERROR_REASON_")
        world.counts["refused answers"] += 1
        if reason == "DELIVERY_NOT_LEASED":
            # A chunk or a failure for a delivery that is not the worker's any more.
            return
        content = self._sent[refused.delivery_id].popleft()
        if reason == "INVALID_CONTENT":
            require(content == "", "a good answer was refused:", content, refused)
            return
        session_id, sequence = delivery_of(refused.delivery_id)
        session = world.model.sessions.get(session_id)
        if session is None:
            right = reason in (
                "SESSION_NOT_FOUND",
                "DELIVERY_NOT_FOUND",
                "SESSION_EXPIRED",
                "DELIVERY_ALREADY_ANSWERED",
            )
        elif session.is_expired(world.now_ms()):
            right = reason in ("SESSION_EXPIRED", "DELIVERY_ALREADY_ANSWERED")
        else:
            right = reason == "DELIVERY_ALREADY_ANSWERED" and session.deliveries[sequence].answered
        require(right or (reason == "UNAVAILABLE" and world.stopping), "an answer was refused:", refused)

    def _reply(self, delivery_id: str, content: str) -> None:
        self._world.said(delivery_id, content)
        self._sent.setdefault(delivery_id, deque()).append(content)
        self._send(reply={"delivery_id": delivery_id, "reply": {"content": content}})

    def _send(self, **part: Any) -> None:
        self._stream.send(agents_pb.ConnectRequest(**part))

    async def _handle(self, delivery: agents_pb.Delivery, life: int) -> None:
        """Does with a delivery as the seed says."""
        world, chance, delivery_id = self._world, self._world.chance, delivery.delivery_id
        how = "answer" if world.healed else chance.choices(list(world.habits), list(world.habits.values()))[0]
        text = f"{how} {delivery_id} {delivery.attempt} {world.loop.steps}"
        if not world.healed:
            await asyncio.sleep(chance.choice((0, 0, 0.01, 0.5, 3)))
        if how in ("late", "hang"):
            await asyncio.sleep(LEASE_SECONDS * chance.choice((0.999, 1, 1.2, 2.5)))
        if life != world.life:
            return
        if how in ("fail", "give up", "hang", "post", "go") and chance.random() < 0.5:
            # A piece that will be void.
            chunk = agents_pb.ConnectRequest.Chunk(delivery_id=delivery_id, chunk="half a ")
            self._stream.send(agents_pb.ConnectRequest(chunk=chunk))
            await asyncio.sleep(chance.choice((0, 0.1, 6)))
        if life != world.life or how == "hang":
            return
        world.counts[f"agents: {how}"] += 1
        match how:
            case "chunks":
                for piece in text.split(" "):
                    self._send(chunk={"delivery_id": delivery_id, "chunk": piece})
                    await asyncio.sleep(chance.choice((0, 0.1, 6)))
                self._reply(delivery_id, text.replace(" ", ""))
            case "fail" | "give up":
                if how == "give up":
                    world.said(delivery_id, "", final=True)
                self._send(failure={"delivery_id": delivery_id, "reason": how, "final": how == "give up"})
            case "empty":
                world.said(delivery_id, "", final=True)
                self._reply(delivery_id, "")
            case "go":
                self.disconnect()
            case "post":
                session_id, sequence = delivery_of(delivery_id)
                world.said(delivery_id, text)
                world.call("reply", session=session_id, sequence=sequence, content=text)
            case _:
                self._reply(delivery_id, text)
                if how == "twice":
                    self._reply(delivery_id, text + " again")
