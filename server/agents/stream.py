"""The kind `stream`: workers that connect, take deliveries and answer them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from server.agents.connector import Emit, NoReplyError, Work
from server.domain.agents import Agent, AgentKind
from server.domain.errors import (
    AgentNotFoundError,
    CredentialExpiredError,
    DeliveryNotLeasedError,
    DomainError,
    InvalidFieldError,
    UnavailableError,
)
from server.domain.ids import new_id
from server.domain.messages import Reply


@dataclass(frozen=True, slots=True)
class Given:
    """Something to answer."""

    work: Work


@dataclass(frozen=True, slots=True)
class Accepted:
    """An answer of the worker is stored."""

    delivery_id: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that the worker sent was not accepted."""

    delivery_id: str
    error: DomainError


@dataclass(frozen=True, slots=True)
class Revoked:
    """A delivery is no longer the worker's."""

    delivery_id: str


Told: TypeAlias = Given | Accepted | Refused | Revoked | Exception
"""An event for a worker. An exception ends its stream."""


@dataclass(eq=False, slots=True)
class _Held:
    """A delivery that a worker has.

    `reply` ends with the worker's reply or a NoReplyError. `stored` says whether that reply is stored, where
    anybody asks. `is_taken`: it is on its way into the store. `begun`: the worker has sent something for it.
    """

    work: Work
    emit: Emit
    reply: asyncio.Future[Reply]
    stored: asyncio.Future[bool] | None = None
    is_taken: bool = False
    begun: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a worker comes from, for the operator: the name of its credential, its address, and when it
    connected, in ms.
    """

    principal: str = ""
    address: str = ""
    connected_at_ms: int = 0


@dataclass(eq=False, slots=True)
class StreamWorker:
    """A connected worker. `busy` counts its deliveries, also those on their way to it.

    `told` holds the events for it; None ends them. `gone`: nothing is heard of it any more. `retired`: it
    gets nothing new. `answering` counts its replies that are yet to be told as stored.
    """

    agent_id: str
    capacity: int
    history_messages: int
    origin: Origin = field(default_factory=Origin)
    id: str = field(default_factory=new_id)
    told: asyncio.Queue[Told | None] = field(default_factory=asyncio.Queue)
    held: dict[str, _Held] = field(default_factory=dict)
    busy: int = 0
    gone: bool = False
    retired: bool = False
    answering: int = 0

    def retire(self) -> None:
        """Gives it nothing new: its credential has expired. Its stream ends once it holds nothing."""
        self.retired = True
        self.end_if_retired()

    def end_if_retired(self) -> None:
        """Ends its stream where it is retired and holds nothing."""
        if self.retired and not self.gone and not (self.busy or self.answering):
            self.gone = True
            self.told.put_nowait(CredentialExpiredError("The credential has expired"))

    def revoke(self) -> None:
        """Ends its stream at once: its credential was removed. What it holds goes back, and no attempt is
        charged.
        """
        if self.gone:
            return
        self.retired = self.gone = True
        self.told.put_nowait(CredentialExpiredError("The credential was removed"))
        self.let_go(is_charged=False)

    def let_go(self, *, is_charged: bool) -> None:
        """Gives up what it holds. An attempt that had begun is charged where `is_charged`."""
        for held in self.held.values():
            if not held.reply.done():
                held.reply.set_exception(_lost(begun=held.begun and is_charged))

    def take_chunk(self, delivery_id: str, text: str) -> None:
        """Takes a piece of a reply. Raises DeliveryNotLeasedError, InvalidContentError."""
        held = self._held(delivery_id)
        held.begun = True
        held.emit(text)

    def fail(self, delivery_id: str, reason: str, *, final: bool) -> None:
        """Takes a failure. Raises DeliveryNotLeasedError."""
        reply = self._held(delivery_id).reply
        if not reply.done():
            reply.set_exception(NoReplyError(reason, final=final))

    async def answer(self, delivery_id: str, reply: Reply) -> bool:
        """Takes a reply, and waits until it is stored. Returns False where nobody waits for it here.

        :raises DeliveryNotLeasedError: the worker's credential was removed
        :raises DomainError: it cannot be stored
        """
        if self.gone:
            raise DeliveryNotLeasedError(delivery_id)
        held = self.held.get(delivery_id)
        if held is None or held.reply.done():
            return False
        held.begun = True
        held.stored = asyncio.get_running_loop().create_future()
        held.reply.set_result(reply)
        self.answering += 1
        try:
            return await held.stored
        finally:
            self.answering -= 1
            # Once the caller has told the worker what became of it.
            asyncio.get_running_loop().call_soon(self.end_if_retired)

    def _held(self, delivery_id: str) -> _Held:
        if delivery_id not in self.held:
            raise DeliveryNotLeasedError(delivery_id)
        return self.held[delivery_id]


class Seat:
    """A worker's time for one delivery."""

    def __init__(self, worker: StreamWorker) -> None:
        self._worker = worker
        self._held: _Held | None = None

    def history_messages(self, agent: Agent) -> int:
        """The number that the worker has asked for."""
        return self._worker.history_messages

    async def reply(self, work: Work, emit: Emit) -> Reply:
        """Hands the delivery to the worker and waits for its reply."""
        worker, delivery_id = self._worker, work.delivery.id
        if worker.gone:
            raise _lost(begun=False)
        held = self._held = _Held(work, emit, asyncio.get_running_loop().create_future())
        worker.held[delivery_id] = held
        worker.told.put_nowait(Given(work))
        try:
            reply = await held.reply
            held.is_taken = True
            return reply
        finally:
            del worker.held[delivery_id]
            # Cancelled with the call, before the worker has replied.
            if held.reply.cancelled():
                worker.told.put_nowait(Revoked(delivery_id))

    def settle(self, error: DomainError | None = None) -> None:
        """Says whether the worker's reply is stored, or why not; once.

        One that was not taken may still be stored.
        """
        held = self._held
        if held is None or held.stored is None or held.stored.done():
            return
        if held.is_taken and error:
            held.stored.set_exception(error)
        else:
            held.stored.set_result(held.is_taken)

    def give_up(self) -> None:
        """Says that the reply was not stored, where nothing else was said."""
        if self._held:
            self._held.is_taken = False
        self.settle()


class StreamWorkers:
    """The connected workers by agent.

    `on_change` is told the id of an agent that has one more worker, or was changed itself.
    """

    is_inside = False

    def __init__(self) -> None:
        self.on_change: Callable[[str], object] = str
        self._workers: dict[str, list[StreamWorker]] = {}
        self._closed = False

    def check(self, agent: Agent) -> None:
        """Nothing can be wrong with it."""

    async def check_secret(self, agent: Agent) -> None:
        """It has none."""

    def capacity(self, agent_id: str) -> int:
        """How many deliveries the connected workers may have together: one that is retired, what it has."""
        return sum(
            worker.busy if worker.retired else worker.capacity for worker in self._workers.get(agent_id, ())
        )

    async def check_ready(self, agent: Agent) -> None:
        """It is wherever it has workers."""

    @asynccontextmanager
    async def slot(self, agent: Agent) -> AsyncIterator[Seat]:
        """Holds a worker who has time. Raises NoReplyError where there is none any more."""
        worker = self._choose(agent.id)
        worker.busy += 1
        seat = Seat(worker)
        try:
            yield seat
            seat.settle()
        except DomainError as error:
            seat.settle(error)
            raise
        finally:
            seat.give_up()
            worker.busy -= 1
            worker.end_if_retired()

    @contextmanager
    def connect(
        self, agent: Agent, *, capacity: int, history_messages: int, origin: Origin | None = None
    ) -> Iterator[StreamWorker]:
        """A worker of an agent, as long as its stream lasts.

        Raises InvalidFieldError (the agent is of another kind), UnavailableError.
        """
        if self._closed:
            raise UnavailableError("The service is stopping")
        _require_stream(agent)
        worker = StreamWorker(agent.id, capacity, history_messages, origin or Origin())
        self._workers.setdefault(agent.id, []).append(worker)
        self.on_change(agent.id)
        try:
            yield worker
        finally:
            worker.gone = True
            self._workers[agent.id].remove(worker)
            if not self._workers[agent.id]:
                del self._workers[agent.id]
            worker.let_go(is_charged=True)

    def count(self, agent_id: str) -> int:
        """How many workers of an agent are connected."""
        return len(self._workers.get(agent_id, ()))

    def list_connected(self, agent_id: str) -> list[StreamWorker]:
        """The connected workers of an agent."""
        return list(self._workers.get(agent_id, ()))

    def connected_agents(self) -> list[str]:
        """The ids of the agents that have workers."""
        return list(self._workers)

    def apply_change(self, agent_id: str, agent: Agent | None) -> None:
        """Applies a change of an agent, or its removal (None). Ends workers' streams where it takes none."""
        self.on_change(agent_id)
        try:
            if agent is None:
                raise AgentNotFoundError(agent_id)
            _require_stream(agent)
        except DomainError as error:
            for worker in self._workers.get(agent_id, ()):
                worker.told.put_nowait(error)

    def close(self) -> None:
        """Ends all streams, because the service stops."""
        self._closed = True
        for workers in self._workers.values():
            for worker in workers:
                worker.told.put_nowait(UnavailableError("The service is stopping"))

    def _choose(self, agent_id: str) -> StreamWorker:
        """The idlest worker who has time, and of these the one whose turn was longest ago."""
        workers = self._workers.get(agent_id, [])
        free = [worker for worker in workers if worker.busy < worker.capacity and not worker.retired]
        if not free:
            raise _lost(begun=False)
        worker = min(free, key=lambda worker: worker.busy / worker.capacity)
        workers.remove(worker)
        workers.append(worker)
        return worker


def _require_stream(agent: Agent) -> None:
    if agent.kind is not AgentKind.STREAM:
        raise InvalidFieldError(
            "hello.agent_id", agent.id, f"is an agent of the kind {agent.kind}, which takes no workers"
        )


def _lost(*, begun: bool) -> NoReplyError:
    return NoReplyError(
        "the connection to the agent's worker was lost", final=False, connection_lost=not begun
    )
