"""Workers: programs that answer for agents of the kind `stream`."""

import asyncio
import logging
import signal
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, Unpack

import grpc

from eliza_sessions_client import connection
from eliza_sessions_client._api import agent_service_pb2 as pb
from eliza_sessions_client.agent import Agent, AgentError, Reply, Turn, answer, clean
from eliza_sessions_client.calls import json_text
from eliza_sessions_client.credentials import Metadata
from eliza_sessions_client.errors import SessionsError, reason_name
from eliza_sessions_client.failures import error_from
from eliza_sessions_client.retries import Backoff, wait_of
from eliza_sessions_client.streams import CREDENTIAL_EXPIRED
from eliza_sessions_client.traces import continued

DRAIN_SECONDS: Final = 30.0
"""How long a worker that is told to stop may take for what it has in hand."""

MAX_BACKOFF_SECONDS: Final = 10.0
MAX_REPLY_BYTES: Final = 3 * 1024 * 1024 + 768 * 1024
"""The largest reply. A larger one would end the stream, and with it what else is in hand."""

FAILED: Final = "the agent could not answer"
"""What users are told of an exception."""

_GOODBYE_SECONDS: Final = 5.0
"""How long a worker waits for the service to end its stream."""

_UNSENT: Final = 100
"""How many requests may wait for a service that reads slowly."""

_TRY_AGAIN: Final = {"UNAVAILABLE": 1.0, "OVERLOADED": 1.0, "RESOURCE_EXHAUSTED": 10.0}
"""Refusals of a reply that say nothing about it, and after how many seconds it is given again."""

_LASTING: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""Errors that another connection would have, too."""

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Held:
    """A delivery in hand: the task that answers it, and then its reply, until that is stored.

    `is_over`: nothing more may be said about it.
    """

    turn: Turn
    task: asyncio.Task[None] | None = None
    reply: pb.ConnectRequest.Reply | None = None
    is_over: bool = False


@dataclass(eq=False, slots=True)
class _Connection:
    """What goes out on one stream; None ends it. `is_welcome`: the service has said so."""

    unsent: asyncio.Queue[pb.ConnectRequest | None] = field(default_factory=lambda: asyncio.Queue(_UNSENT))
    is_welcome: bool = False

    async def requests(self) -> AsyncGenerator[pb.ConnectRequest, None]:
        """What the stream sends."""
        while (said := await self.unsent.get()) is not None:
            yield said


class Worker:
    """Serves one agent until it is stopped, over any number of connections."""

    def __init__(
        self,
        agent: Agent,
        address: str = connection.ADDRESS,
        *,
        drain_seconds: float = DRAIN_SECONDS,
        **options: Unpack[connection.ConnectionOptions],
    ) -> None:
        """`options`: see ConnectionOptions."""
        self._agent = agent
        self._address = address
        self._options = options
        self._credentials = connection.credentials(options)
        self._drain_s = drain_seconds
        self._backoff = Backoff(MAX_BACKOFF_SECONDS)
        self._held: dict[str, _Held] = {}
        self._connection: _Connection | None = None
        self._is_stopping = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._later = set[asyncio.Task[None]]()

    def stop(self) -> None:
        """Takes nothing new. `serve` returns when what is in hand is answered, or the time for it is over."""
        self._is_stopping.set()

    async def serve(self) -> None:
        """Connects and answers, again and again, until `stop`.

        :raises SessionsError: the service wants no such worker: there is no such agent, or no right to serve
        it
        """
        async with connection.open_async_channel(self._address, self._options) as channel:
            serving = asyncio.create_task(self._connect_again(connection.stubs(channel)["AgentService"]))
            stopping = asyncio.create_task(self._drain())
            try:
                await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (serving, stopping, *self._later):
                    task.cancel()
                self._let_go()
                await asyncio.wait([serving, stopping])
            if not serving.cancelled():
                serving.result()

    async def _drain(self) -> None:
        """Returns when the worker is told to stop and has nothing in hand any more, or no time is left."""
        await self._is_stopping.wait()
        _log.info("stops; %d messages are in hand", len(self._held))
        try:
            async with asyncio.timeout(self._drain_s):
                await self._is_idle.wait()
        except TimeoutError:
            _log.warning("leaves %d messages to other workers", len(self._held))
            return
        if self._connection and self._connection.is_welcome:
            # What was said before goes out before the stream ends; then the service ends it, too.
            await self._connection.unsent.put(None)
            await asyncio.sleep(_GOODBYE_SECONDS)

    async def _connect_again(self, stub: Any) -> None:
        while True:
            failed = None
            try:
                if (metadata := await self._metadata()) is not None:
                    await self._connect(stub, metadata)
            except grpc.RpcError as error:
                failed = error_from(error)
                self._check(failed)
            finally:
                self._connection = None
                self._let_go()
            if self._is_stopping.is_set() and not self._held:
                return
            pause_s = self._backoff.pause(wait_of(failed) if failed else 0.0)
            _log.warning("connection lost (%s); connects again in %.1f s", failed or "ended", pause_s)
            await asyncio.sleep(pause_s)

    def _check(self, failed: SessionsError) -> None:
        """Raises an error that another connection would have, too."""
        if failed.code == CREDENTIAL_EXPIRED and self._credentials.is_renewable:
            return
        if failed.status in _LASTING:
            raise failed from None

    async def _metadata(self) -> Metadata | None:
        """The credentials; None where the function that gives the token has failed."""
        try:
            return await self._credentials.metadata_async()
        except Exception:  # noqa: BLE001 - whatever a function of the user's raises
            _log.exception("no token")
            return None

    async def _connect(self, stub: Any, metadata: Metadata) -> None:
        """One connection. Raises grpc.RpcError at its end."""
        self._connection = here = _Connection()
        hello = pb.ConnectRequest.Hello(
            agent_id=self._agent.agent_id,
            max_deliveries=self._agent.concurrency,
            history_messages=self._agent.history_messages,
        )
        here.unsent.put_nowait(pb.ConnectRequest(hello=hello))
        stream = stub.Connect(here.requests(), metadata=metadata)
        try:
            async for told in stream:
                await self._take(told, here)
        finally:
            stream.cancel()

    async def _take(self, told: pb.ConnectResponse, here: _Connection) -> None:
        match told.WhichOneof("part"):
            case "welcome":
                self._backoff.reset()
                here.is_welcome = True
                _log.info("serves %s", told.welcome.agent.name)
                # Of these nobody knows whether they are stored.
                for held in list(self._held.values()):
                    await self._say(held, reply=held.reply)
            case "delivery":
                self._begin(Turn(told.delivery))
            case "accepted":
                self._end(told.accepted.delivery_id)
            case "refused":
                self._take_refusal(told.refused)
            case "revoked":
                self._end(told.revoked.delivery_id)

    def _begin(self, turn: Turn) -> None:
        delivery_id = turn.delivery.delivery_id
        if self._is_stopping.is_set() or (delivery_id in self._held and self._held[delivery_id].reply):
            # Others get it when the connection ends, and no attempt counts. Or its reply is on its way.
            return
        self._end(delivery_id)
        held = self._held[delivery_id] = _Held(turn)
        self._is_idle.clear()
        with continued(turn.trace):
            held.task = asyncio.create_task(self._answer(held))

    async def _answer(self, held: _Held) -> None:
        """Asks the agent, and says what it says."""
        delivery_id, turn = held.turn.delivery.delivery_id, held.turn
        try:
            async with aclosing(answer(self._agent, turn)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, str):
                        chunk = pb.ConnectRequest.Chunk(delivery_id=delivery_id, chunk=piece)
                        await self._say(held, chunk=chunk)
                    else:
                        held.reply = _encode(delivery_id, piece)
                        await self._say(held, reply=held.reply)
        except asyncio.CancelledError:
            if held.is_over:
                raise
            # Not cancelled by us, but by something that the agent uses.
            _log.warning("no answer to message %s: the agent was cancelled", turn.message.message_id)
            await self._fail(held, FAILED, final=False)
        except AgentError as error:
            reason = clean(str(error))
            _log.warning("no answer to message %s: %s", turn.message.message_id, reason)
            await self._fail(held, reason, final=error.final)
        except Exception:  # noqa: BLE001 - whatever an agent raises
            _log.exception(
                "no answer to message %s of session %s", turn.message.message_id, turn.session.session_id
            )
            await self._fail(held, FAILED, final=False)

    async def _fail(self, held: _Held, reason: str, *, final: bool) -> None:
        delivery_id = held.turn.delivery.delivery_id
        failure = pb.ConnectRequest.Failure(delivery_id=delivery_id, reason=reason[:500], final=final)
        held.reply = None
        await self._say(held, failure=failure)
        if not held.is_over:
            held.is_over = True
            self._forget(delivery_id)

    async def _say(self, held: _Held, **part: Any) -> None:
        """Says something about a delivery, as long as it is in hand and there is a connection."""
        if self._connection and not held.is_over:
            await self._connection.unsent.put(pb.ConnectRequest(**part))

    def _take_refusal(self, refused: pb.ConnectResponse.Refused) -> None:
        held, code = self._held.get(refused.delivery_id), reason_name(refused.reason)
        if held is None:
            return
        if held.reply is None:
            # It was about a piece.
            if code == "DELIVERY_NOT_LEASED":
                self._end(refused.delivery_id)
            else:
                _log.warning("a piece was refused: %s", refused.message)
        elif code in _TRY_AGAIN:
            pause_s = float(refused.details.get("retryAfterSeconds") or _TRY_AGAIN[code])
            later = asyncio.create_task(self._say_later(held, pause_s))
            self._later.add(later)
            later.add_done_callback(self._later.discard)
        else:
            log = _log.info if code == "DELIVERY_ALREADY_ANSWERED" else _log.error
            log("the reply to message %s was refused: %s", held.turn.message.message_id, refused.message)
            self._end(refused.delivery_id)

    async def _say_later(self, held: _Held, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        await self._say(held, reply=held.reply)

    def _end(self, delivery_id: str) -> None:
        """Lets go of a delivery, and cancels the agent that still answers it."""
        held = self._held.get(delivery_id)
        if held is None:
            return
        held.is_over = True
        if held.task:
            held.task.cancel()
        self._forget(delivery_id)

    def _forget(self, delivery_id: str) -> None:
        self._held.pop(delivery_id, None)
        if not self._held:
            self._is_idle.set()

    def _let_go(self) -> None:
        """Lets go of what is not answered: the service delivers it again. Replies are kept, to be given
        again.
        """
        for delivery_id in [one for one, held in self._held.items() if held.reply is None]:
            self._end(delivery_id)


def _encode(delivery_id: str, reply: Reply) -> pb.ConnectRequest.Reply:
    """The reply for the wire. Raises AgentError where it is too large, ValueError where it is not JSON."""
    encoded = pb.ConnectRequest.Reply(
        delivery_id=delivery_id,
        reply=pb.AgentReply(
            content=reply.content or "",
            metadata_json=json_text(reply.metadata),
            attachments_json=json_text(reply.attachments),
            thought=None if reply.thought is None else clean(reply.thought),
            actions=[clean(action) for action in reply.actions],
        ),
    )
    if encoded.ByteSize() > MAX_REPLY_BYTES:
        raise AgentError("the agent's reply is too large", final=True)
    return encoded


async def serve(
    *agents: Agent,
    address: str = connection.ADDRESS,
    drain_seconds: float = DRAIN_SECONDS,
    **options: Unpack[connection.ConnectionOptions],
) -> None:
    """Serves agents until SIGTERM or SIGINT: `run`, for programs with an event loop of their own."""
    if not agents:
        raise ValueError("name at least one agent")
    workers = [Worker(one, address, drain_seconds=drain_seconds, **options) for one in agents]
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for worker in workers:
            worker.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    tasks = [asyncio.create_task(worker.serve()) for worker in workers]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        # One has failed, or all are told to stop.
        stop()
        await asyncio.wait(tasks)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def run(
    *agents: Agent,
    address: str = connection.ADDRESS,
    drain_seconds: float = DRAIN_SECONDS,
    **options: Unpack[connection.ConnectionOptions],
) -> None:
    """Serves agents until SIGTERM or SIGINT.

    It connects again as often as the connection is lost. At the signal it takes nothing new, and returns when
    it has answered what it has in hand, after `drain_seconds` at the latest.

    :raises SessionsError: the service wants no such worker: there is no such agent, or no right to serve it
    """
    asyncio.run(serve(*agents, address=address, drain_seconds=drain_seconds, **options))
