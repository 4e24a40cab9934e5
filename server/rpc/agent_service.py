"""AgentService: the registry of agents, and how they take messages and answer them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any, Final

from eliza.sessions.errors import forget_frames
from eliza.sessions.limits import DEFAULT_SESSIONS, MAX_SESSIONS
from eliza.sessions.v1 import agent_pb2, timeout_pb2
from eliza.sessions.v1 import agent_service_pb2 as pb
from eliza.sessions.v1.agent_service_pb2_grpc import AgentServiceServicer
from server.agents.connectors import Connectors
from server.agents.stream import Accepted, Given, Origin, Refused, Revoked, StreamWorker, Told
from server.clock import Clock
from server.delivery.dispatcher import Dispatcher
from server.domain.access import Role, Scope
from server.domain.agents import MAX_HISTORY_MESSAGES, SETTINGS, Agent, require_owned
from server.domain.errors import (
    AgentNotFoundError,
    DeliveryNotLeasedError,
    DomainError,
    InvalidContentError,
    InvalidFieldError,
    InvalidMetadataError,
    InvalidRequestError,
    MissingFieldsError,
)
from server.domain.ids import new_id, uuid_field
from server.domain.log import message_of
from server.rpc import from_proto, to_proto
from server.rpc.agent_views import AgentViews, check_view
from server.rpc.encoding import encode_delivery, join
from server.rpc.paging import make_token, page_size, read_token
from server.rpc.parsing import ConnectSaid, HalvedChunk, UnreadableAnswer
from server.store.contract import Store
from server.store.values import Position

MAX_DELIVERIES: Final = 1000
MAX_REASON_CODE_POINTS: Final = 500
HELLO_SECONDS: Final = 10.0
"""How long a worker may take from its connection to its hello."""

READ_AGENTS: Final = 50
"""How many agents are read at a time: each may have a prompt of 128 KiB."""

PAGE_BYTES: Final = 3 * 1024 * 1024
"""How large a page of several agents is at most. A gRPC client takes 4 MiB by default."""

UNREAD: Final = 1000
"""How many things a worker may leave unread before nothing more is read from it."""

_BAD_ANSWER: Final = (MissingFieldsError, InvalidContentError, InvalidMetadataError, InvalidRequestError)
"""The errors in an answer's content. The agent would answer the same again, so its attempt ends."""

_SCOPE = ("agents",)
_TIMEOUT = "timeout_config"
_RETENTION: Final = "retention_minutes"
_TIMEOUT_FIELDS = tuple(timeout_pb2.TimeoutConfig.DESCRIPTOR.fields_by_name)
_SETTINGS = {str(kind): settings for kind, settings in SETTINGS.items()}


class AgentService(AgentServiceServicer):
    """See agent_service.proto."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        connectors: Connectors,
        dispatcher: Dispatcher,
        heartbeat_s: float,
        max_agents: int = 0,
    ) -> None:
        """A tenant may have `max_agents`; 0: as many as it wants."""
        self._max_agents = max_agents
        self._store = store
        self._clock = clock
        self._connectors = connectors
        self._dispatcher = dispatcher
        self._heartbeat_s = heartbeat_s
        self._views = AgentViews(connectors.workers, dispatcher.statuses)

    async def CreateAgent(self, request: pb.CreateAgentRequest, context: Any) -> pb.CreateAgentResponse:
        wanted, now_ms = request.agent, self._clock.now_ms()
        if missing := [field for field in ("name", "kind") if not getattr(wanted, field)]:
            raise MissingFieldsError(missing)
        agent_id = uuid_field("agent_id", wanted.agent_id) if wanted.agent_id else new_id()
        kind, settings = from_proto.agent_kind(wanted.kind), from_proto.agent_settings(wanted)
        timeout = from_proto.timeout_config(wanted.timeout_config)
        tenant, retention = context.scope.new_tenant, from_proto.retention_minutes(wanted)
        agent = Agent(agent_id, wanted.name, kind, now_ms, now_ms, timeout, settings, tenant, retention)
        self._connectors.check(agent)
        await self._connectors.check_secret(agent)
        await self._store.create_agent(agent, most=self._max_agents)
        return pb.CreateAgentResponse(agent=to_proto.agent(agent))

    async def GetAgent(self, request: pb.GetAgentRequest, context: Any) -> pb.GetAgentResponse:
        check_view(request.view)
        agent = await self._store.get_agent(request.agent_id, scope=context.scope)
        return pb.GetAgentResponse(agent=self._views.of(agent, request.view, context))

    async def ListAgents(self, request: pb.ListAgentsRequest, context: Any) -> pb.ListAgentsResponse:
        check_view(request.view)
        size, after = page_size(request.page_size, DEFAULT_SESSIONS, MAX_SESSIONS), None
        if request.page_token:
            after = Position(*read_token(request.page_token, _SCOPE, (int, str)))  # type: ignore[arg-type]
        response, total = pb.ListAgentsResponse(), 0
        while found := await self._store.list_agents(
            scope=context.scope, limit=min(READ_AGENTS, size + 1 - len(response.agents)), after=after
        ):
            for agent in found:
                message = self._views.of(agent, request.view, context)
                total += message.ByteSize()
                if after and (len(response.agents) == size or (response.agents and total > PAGE_BYTES)):
                    response.next_page_token = make_token(_SCOPE, (after.created_at_ms, after.id))
                    return response
                response.agents.append(message)
                after = Position(agent.created_at_ms, agent.id)
        return response

    async def UpdateAgent(self, request: pb.UpdateAgentRequest, context: Any) -> pb.UpdateAgentResponse:
        agent_id = request.agent.agent_id
        paths = list(request.update_mask.paths) or _set_paths(request.agent)
        stored = await self._store.get_agent(agent_id, scope=context.scope)
        require_owned(context.scope, stored)
        patched = _patch(stored, request.agent, paths)
        self._connectors.check(patched)
        # Before the write, which must not wait for a file. Another change may set a new secret meanwhile, and
        # has then read it itself.
        await self._connectors.check_secret(patched)

        def change(agent: Agent, now_ms: int) -> Agent:
            patched = _patch(agent, request.agent, paths)
            self._connectors.check(patched)
            return replace(patched, updated_at_ms=now_ms)

        agent = await self._store.update_agent(agent_id, change, scope=context.scope)
        self._connectors.workers.apply_change(agent.id, agent)
        return pb.UpdateAgentResponse(agent=to_proto.agent(agent))

    async def DeleteAgent(self, request: pb.DeleteAgentRequest, context: Any) -> pb.DeleteAgentResponse:
        await self._store.delete_agent(request.agent_id, scope=context.scope)
        self._connectors.workers.apply_change(request.agent_id, None)
        self._dispatcher.statuses.forget(request.agent_id)
        return pb.DeleteAgentResponse()

    async def Reply(self, request: pb.ReplyRequest, context: Any) -> pb.ReplyResponse:
        if missing := [field for field in ("delivery_id", "reply") if not _is_set(request, field)]:
            raise MissingFieldsError(missing)
        as_text = from_proto.is_text_form(request.json_form)
        reply, scope = from_proto.reply(request.reply), await self._worker_scope(context.scope)
        outcome = await self._dispatcher.answer(request.delivery_id, reply, scope=scope)
        entry = outcome.entry
        assert entry is not None
        return pb.ReplyResponse(message=to_proto.message(outcome.session, entry, message_of(entry), as_text))

    async def Connect(
        self, requests: AsyncIterator[ConnectSaid], context: Any
    ) -> AsyncIterator[pb.ConnectResponse]:
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                first = await anext(requests, None)
        except TimeoutError:
            raise MissingFieldsError(["hello"]) from None
        if first is None:
            return
        if not isinstance(first, pb.ConnectRequest) or first.WhichOneof("part") != "hello":
            raise MissingFieldsError(["hello"])
        hello = first.hello
        if not hello.agent_id:
            raise MissingFieldsError(["hello.agent_id"])
        _check_range("hello.max_deliveries", hello.max_deliveries, MAX_DELIVERIES)
        _check_range("hello.history_messages", hello.history_messages, MAX_HISTORY_MESSAGES)
        as_text = from_proto.is_text_form(hello.json_form)
        agent = await self._store.get_agent(hello.agent_id, scope=context.scope)
        # Its workers get the messages of all tenants that it is for.
        require_owned(context.scope, agent)
        scope = await self._worker_scope(context.scope)
        capacity = hello.max_deliveries or 1
        principal = "" if context.principal.role is Role.OPEN else context.principal.id
        origin = Origin(principal, context.address, self._clock.now_ms())
        with self._connectors.workers.connect(
            agent, capacity=capacity, history_messages=hello.history_messages, origin=origin
        ) as worker:
            context.on_credential_end = lambda removed: worker.revoke() if removed else worker.retire()
            yield pb.ConnectResponse(welcome=pb.ConnectResponse.Welcome(agent=to_proto.agent(agent)))
            reading = asyncio.create_task(self._listen(requests, worker, scope))
            try:
                while True:
                    try:
                        async with asyncio.timeout(self._heartbeat_s):
                            told = await worker.told.get()
                    except TimeoutError:
                        yield pb.ConnectResponse(heartbeat=pb.ConnectResponse.Heartbeat())
                        continue
                    if told is None:
                        return
                    yield await self._told(told, as_text)
                    worker.told.task_done()
            finally:
                reading.cancel()

    async def _worker_scope(self, scope: Scope) -> Scope:
        """What a worker may answer: of its own agent that is for all tenants, the sessions of all."""
        if scope.agent_id is None or scope.tenant != "":
            return scope
        with suppress(AgentNotFoundError):
            await self._store.get_agent(scope.agent_id, scope=scope)
            return scope._replace(tenant=None)
        return scope

    async def _listen(self, requests: AsyncIterator[ConnectSaid], worker: StreamWorker, scope: Scope) -> None:
        """Handles the messages of a worker until they end, or its stream must."""
        try:
            async for request in requests:
                await self._take(request, worker, scope)
                if worker.told.qsize() > UNREAD:
                    await worker.told.join()
        except Exception as error:  # noqa: BLE001 - it ends the stream, and is dealt with there
            worker.told.put_nowait(error)
        else:
            worker.told.put_nowait(None)

    async def _take(self, said: ConnectSaid, worker: StreamWorker, scope: Scope) -> None:
        """Handles a message of a worker, or refuses it.

        A reply or failure with bad content ends the attempt too.
        """
        part, answer = _answer_in(said)
        delivery_id = answer.delivery_id
        final = part == "reply" or (part == "failure" and answer.final)
        try:
            match said:
                case UnreadableAnswer():
                    raise said.error
                case HalvedChunk():
                    worker.take_chunk(delivery_id, said.text)
                case _ if part == "chunk":
                    worker.take_chunk(delivery_id, said.chunk.chunk)
                case _ if part == "reply":
                    await self._answer(delivery_id, said.reply, worker, scope)
                case _:
                    if len(said.failure.reason) > MAX_REASON_CODE_POINTS:
                        raise InvalidContentError(
                            f"reason must have at most {MAX_REASON_CODE_POINTS} characters"
                        )
                    worker.fail(delivery_id, said.failure.reason or "the agent gave no reason", final=final)
        except DomainError as error:
            forget_frames(error)
            worker.told.put_nowait(Refused(delivery_id, error))
            if part != "chunk" and isinstance(error, _BAD_ANSWER):
                with suppress(DeliveryNotLeasedError):
                    worker.fail(delivery_id, f"the agent's {part} cannot be stored: {error}", final=final)

    async def _answer(
        self, delivery_id: str, answer: pb.ConnectRequest.Reply, worker: StreamWorker, scope: Scope
    ) -> None:
        if not answer.HasField("reply"):
            raise MissingFieldsError(["reply"])
        reply = from_proto.reply(answer.reply)
        if not await worker.answer(delivery_id, reply):
            await self._dispatcher.answer(delivery_id, reply, scope=scope, agent_id=worker.agent_id)
        worker.told.put_nowait(Accepted(delivery_id))

    async def _told(self, told: Told, as_text: bool) -> pb.ConnectResponse:
        """Makes the response for an event of a worker's stream. Raises the error that ends the stream."""
        match told:
            case Given():
                delivery = await encode_delivery(told.work, self._clock.now_ms(), as_text)
                response: pb.ConnectResponse = join(pb.ConnectResponse(), {"delivery": [delivery]})
                return response
            case Accepted():
                return pb.ConnectResponse(accepted=pb.ConnectResponse.Accepted(delivery_id=told.delivery_id))
            case Refused():
                reason, message, details = to_proto.error(told.error)
                refused = pb.ConnectResponse.Refused(
                    delivery_id=told.delivery_id, reason=reason, message=message, details=details
                )
                return pb.ConnectResponse(refused=refused)
            case Revoked():
                return pb.ConnectResponse(revoked=pb.ConnectResponse.Revoked(delivery_id=told.delivery_id))
            case _:
                raise told


def _answer_in(said: ConnectSaid) -> tuple[str, Any]:
    """Which answer to a delivery a worker gave, and the answer itself. Raises MissingFieldsError."""
    match said:
        case HalvedChunk():
            return "chunk", said
        case UnreadableAnswer():
            return said.part, said
    part = said.WhichOneof("part")
    if part is None or part == "hello":
        raise MissingFieldsError(["chunk", "reply", "failure"])
    return part, getattr(said, part)


def _is_set(request: pb.ReplyRequest, field: str) -> bool:
    return any(found.name == field for found, _ in request.ListFields())


def _check_range(field: str, value: int, most: int) -> None:
    if not 0 <= value <= most:
        raise InvalidFieldError(field, value, f"must be between 0 and {most}")


def _set_paths(wanted: agent_pb2.Agent) -> list[str]:
    """The changeable fields that are set, as AIP-134 reads an absent mask."""
    paths = [field for field in ("name", "kind") if getattr(wanted, field)]
    paths += [_RETENTION] if wanted.HasField(_RETENTION) else []
    for head in (_TIMEOUT, *_SETTINGS):
        paths += [f"{head}.{field.name}" for field, _ in getattr(wanted, head).ListFields()]
    return paths


def _patch(agent: Agent, wanted: agent_pb2.Agent, paths: list[str]) -> Agent:
    """The agent with the fields that the paths name taken from `wanted`.

    Raises InvalidFieldError for a path that cannot be changed.
    """
    if "*" in paths:
        paths = ["kind", "name", _RETENTION, _TIMEOUT, *(head for head in _SETTINGS if wanted.HasField(head))]  # type: ignore[arg-type]
        agent = replace(agent, settings=None)
    if "kind" in paths and from_proto.agent_kind(wanted.kind) != agent.kind:
        # The settings of the old kind go.
        agent = replace(agent, kind=from_proto.agent_kind(wanted.kind), settings=None)
    timeout = from_proto.timeout_config(wanted.timeout_config)
    for path in paths:
        head, _, field = path.partition(".")
        if path == "name":
            agent = replace(agent, name=wanted.name)
        elif path == _RETENTION:
            agent = replace(agent, retention_minutes=from_proto.retention_minutes(wanted))
        elif path == _TIMEOUT:
            agent = replace(agent, timeout=timeout)
        elif head == _TIMEOUT and field in _TIMEOUT_FIELDS:
            agent = replace(agent, timeout=replace(agent.timeout, **{field: getattr(timeout, field)}))
        elif head in _SETTINGS and (not field or field in (known.name for known in fields(_SETTINGS[head]))):
            agent = _with_settings(agent, wanted, head, field)
        elif path != "kind":
            raise InvalidFieldError("update_mask", path, "names a field that cannot be changed")
    return agent


def _with_settings(agent: Agent, wanted: agent_pb2.Agent, head: str, field: str) -> Agent:
    """The agent with one of its kind's settings, or all of them (no field), taken from `wanted`."""
    settings_class = _SETTINGS[head]
    given = from_proto.settings_values(getattr(wanted, head), settings_class)
    if not field or not isinstance(agent.settings, settings_class):
        whole = wanted.HasField(head) or field  # type: ignore[arg-type]
        return replace(agent, settings=settings_class(**given) if whole else None)
    return replace(agent, settings=replace(agent.settings, **{field: given[field]}))
