"""The agents of the campaign, which repeat what they are told: workers of a `stream` agent at all servers,
and a webhook. Now and then they are slow, so that at each kill something is under way.
"""

import asyncio
import base64
import itertools
import random
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import grpc
import orjson

from eliza.sessions.v1 import agent_pb2, agent_service_pb2, agent_service_pb2_grpc

PAUSES_SECONDS: Final = (*[0.0] * 20, *[0.02] * 20, *[0.1] * 8, 0.5, 1.0, 2.0)
"""Before an answer."""
RETRY_SECONDS: Final = 0.05
AT_A_TIME_SECONDS: Final = 2.0
"""Sooner no lease lapses, whatever becomes of its server."""
SECRET: Final = "whsec_" + base64.b64encode(bytes(32)).decode()


async def register(address: str, webhook_address: str) -> tuple[str, str]:
    """Registers an agent of the kind `stream` and one of the kind `webhook`; returns their ids."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = agent_service_pb2_grpc.AgentServiceStub(channel)
        stream = agent_pb2.Agent(name="stream", kind=agent_pb2.AGENT_KIND_STREAM)
        webhook = agent_pb2.Agent(name="webhook", kind=agent_pb2.AGENT_KIND_WEBHOOK)
        webhook.webhook.url = f"http://{webhook_address}/"
        webhook.webhook.secret = "env:AGENT_SECRET_HOOK"
        made = [
            await stub.CreateAgent(agent_service_pb2.CreateAgentRequest(agent=agent), timeout=20)
            for agent in (stream, webhook)
        ]
    return made[0].agent.agent_id, made[1].agent.agent_id


class Worker:
    """A worker that is at one server after the other. A reply of which it does not know what became of it is
    given again on the next stream, as any worker may.

    `given`: how often deliveries were given.
    """

    def __init__(self, addresses: Sequence[str], agent_id: str, choose: random.Random) -> None:
        self.given = 0
        self._addresses = addresses
        self._agent_id = agent_id
        self._choose = choose
        self._unsure: dict[str, str] = {}

    async def run(self) -> None:
        """Works until cancelled."""
        while True:
            address = self._choose.choice(self._addresses)
            try:
                async with grpc.aio.insecure_channel(address) as channel:
                    # Now and then it leaves of its own accord.
                    async with asyncio.timeout(self._choose.uniform(2, 20)):
                        await self._serve(channel)
            except (grpc.aio.AioRpcError, TimeoutError):
                await asyncio.sleep(RETRY_SECONDS)

    async def _serve(self, channel: grpc.aio.Channel) -> None:
        call = agent_service_pb2_grpc.AgentServiceStub(channel).Connect()
        said: asyncio.Queue[agent_service_pb2.ConnectRequest] = asyncio.Queue()
        answers: set[asyncio.Task[None]] = set()
        writing = asyncio.create_task(self._write(call, said))
        try:
            say(
                said,
                hello=agent_service_pb2.ConnectRequest.Hello(agent_id=self._agent_id, max_deliveries=3),
            )
            for delivery_id, content in list(self._unsure.items()):
                reply(said, delivery_id, content)
            async for response in call:
                kind = response.WhichOneof("part")
                if kind == "delivery":
                    self.given += 1
                    task = asyncio.create_task(self._answer(said, response.delivery))
                    answers.add(task)
                    task.add_done_callback(answers.discard)
                elif kind in ("accepted", "refused"):
                    self._unsure.pop(getattr(response, kind).delivery_id, None)
        finally:
            call.cancel()
            for task in (writing, *answers):
                task.cancel()
            await asyncio.gather(writing, *answers, return_exceptions=True)

    @staticmethod
    async def _write(call: Any, said: "asyncio.Queue[agent_service_pb2.ConnectRequest]") -> None:
        while True:
            await call.write(await said.get())

    async def _answer(
        self, said: "asyncio.Queue[agent_service_pb2.ConnectRequest]", delivery: agent_service_pb2.Delivery
    ) -> None:
        await asyncio.sleep(self._choose.choice(PAUSES_SECONDS))
        content = delivery.message.content
        say(
            said,
            chunk=agent_service_pb2.ConnectRequest.Chunk(delivery_id=delivery.delivery_id, chunk=content[:3]),
        )
        self._unsure[delivery.delivery_id] = content
        reply(said, delivery.delivery_id, content)


def say(said: "asyncio.Queue[agent_service_pb2.ConnectRequest]", **part: Any) -> None:
    said.put_nowait(agent_service_pb2.ConnectRequest(**part))


def reply(said: "asyncio.Queue[agent_service_pb2.ConnectRequest]", delivery_id: str, content: str) -> None:
    answer = agent_service_pb2.AgentReply(content=content)
    say(said, reply=agent_service_pb2.ConnectRequest.Reply(delivery_id=delivery_id, reply=answer))


class Webhook:
    """A webhook that repeats the message, plain. `asked`: when, by the delivery, on the monotonic clock."""

    def __init__(self, choose: random.Random) -> None:
        self.asked: dict[str, list[float]] = defaultdict(list)
        self._choose = choose
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        """Listens; returns the address."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    def close(self) -> None:
        if self._server:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                )
                body = orjson.loads(await reader.readexactly(length))
                self.asked[body["data"]["deliveryId"]].append(time.monotonic())
                await asyncio.sleep(self._choose.choice(PAUSES_SECONDS))
                answer = orjson.dumps({"content": body["data"]["message"]["content"]})
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (len(answer), answer)
                )
        except (asyncio.IncompleteReadError, OSError):
            # Its server was killed.
            return
        finally:
            writer.close()


def asked_twice(asked: Mapping[str, Sequence[float]], disturbed_s: Sequence[float]) -> list[str]:
    """The deliveries that a webhook was asked for by two servers at a time: again within AT_A_TIME_SECONDS,
    while none was killed, ended, frozen or thawed.
    """
    return [
        f"{delivery_id}: the webhook was asked again after {second_s - first_s:.3f} s"
        for delivery_id, times in asked.items()
        for first_s, second_s in itertools.pairwise(times)
        if second_s - first_s < AT_A_TIME_SECONDS
        and not any(first_s - AT_A_TIME_SECONDS < one <= second_s for one in disturbed_s)
    ]
