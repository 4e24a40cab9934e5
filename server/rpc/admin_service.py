"""AdminService: what an operator looks at, and messages that are delivered anew."""

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from eliza.sessions import values
from eliza.sessions.times import FIRST_MS, LAST_MS
from eliza.sessions.v1 import admin_service_pb2 as pb
from eliza.sessions.v1 import agent_pb2
from eliza.sessions.v1.admin_service_pb2_grpc import AdminServiceServicer
from server.agents.stream import StreamWorker, StreamWorkers
from server.clock import Clock
from server.delivery.attempt import Attempt
from server.delivery.dispatcher import Dispatcher
from server.domain.access import EVERYTHING, Scope, sees_whole_agents
from server.domain.deliveries import OPEN_STATES, DeliveryState
from server.domain.errors import (
    AgentNotFoundError,
    DeliveryNotFoundError,
    InvalidFieldError,
    MissingFieldsError,
)
from server.domain.ids import uuid_field
from server.domain.replies import redeliver
from server.domain.sessions import Session
from server.environment import changed_settings
from server.rpc import admin_to_proto, from_proto
from server.rpc.agent_views import AgentViews
from server.rpc.call import Call
from server.rpc.encoding import in_slices
from server.rpc.paging import make_token, page_size, read_token
from server.rpc.parts import Parts
from server.settings import Settings
from server.store.contract import Store
from server.store.values import FoundDelivery, Place, Position, SessionFilter
from server.telemetry.recorder import AgentTimes, Recorder
from server.version import VERSION

DEFAULT_PAGE: Final = 50
MAX_PAGE: Final = 100

MAX_WORKERS: Final = 1000
"""How many workers of an agent are listed."""

_PREFIX: Final = re.compile(r"[0-9a-f-]{1,36}", re.ASCII)
_IS_EXPIRED: Final = {
    pb.SESSION_STATE_UNSPECIFIED: None,
    pb.SESSION_STATE_LIVE: False,
    pb.SESSION_STATE_EXPIRED: True,
}
_ANY: Final = frozenset(DeliveryState)
_STATES: Final = {
    pb.DELIVERY_STATE_UNSPECIFIED: _ANY,
    pb.DELIVERY_STATE_WAITING: frozenset(OPEN_STATES),
    pb.DELIVERY_STATE_IN_HAND: frozenset(OPEN_STATES),
    pb.DELIVERY_STATE_ANSWERED: frozenset([DeliveryState.ANSWERED]),
    pb.DELIVERY_STATE_FAILED: frozenset([DeliveryState.FAILED]),
}
"""What of the store may be in each state. Of what is open, the dispatcher knows what is in hand."""
_SETTINGS: Final = {name.upper(): field.default for name, field in Settings.model_fields.items()}


class AdminService(AdminServiceServicer):
    """See admin_service.proto."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        settings: Settings,
        *,
        dispatcher: Dispatcher,
        workers: StreamWorkers,
        parts: Parts,
        recorder: Recorder | None,
        started_at_ms: int,
    ) -> None:
        """`recorder` is None where nobody keeps figures. `started_at_ms` is an instant of the machine's
        clock.
        """
        self._store = store
        self._clock = clock
        self._settings = settings
        self._dispatcher = dispatcher
        self._workers = workers
        self._views = AgentViews(workers, dispatcher.statuses)
        self._parts = parts
        self._recorder = recorder
        self._started_at_ms = started_at_ms

    async def GetOverview(self, request: pb.GetOverviewRequest, context: Any) -> pb.GetOverviewResponse:
        response = pb.GetOverviewResponse(started_at=values.timestamp(self._started_at_ms))
        if self._recorder is None:
            return response
        has_after = request.HasField("after")
        after_ms = _instant("after", request, values.ms_floor) if has_after else FIRST_MS
        now = await self._recorder.read_now()
        response.points.extend(
            admin_to_proto.point(point) for point in self._recorder.points if point.at_ms > after_ms
        )
        response.now.CopyFrom(admin_to_proto.point(now))
        response.refusals.update(self._recorder.refusals)
        response.oldest_delivery_seconds = now.gauges.oldest_delivery_s
        response.expiry_lag_seconds = now.gauges.expiry_lag_s
        return response

    async def GetSystem(self, request: pb.GetSystemRequest, context: Any) -> pb.GetSystemResponse:
        described, sizes = await self._store.describe(), await self._store.measure()
        runs = await self._store.last_runs()
        return pb.GetSystemResponse(
            version=VERSION,
            started_at=values.timestamp(self._started_at_ms),
            schema_version=described.schema,
            changed_settings=admin_to_proto.settings(changed_settings(self._settings), _SETTINGS),
            parts=map(admin_to_proto.part, await self._parts.look()),
            store=admin_to_proto.store_file(described, sizes),
            last_backup=admin_to_proto.run(runs.backup),
            last_check=admin_to_proto.run(runs.check),
            is_protected=self._settings.is_protected,
        )

    async def SearchSessions(
        self, request: pb.SearchSessionsRequest, context: Any
    ) -> pb.SearchSessionsResponse:
        wanted, as_text = _filter(request), from_proto.is_text_form(request.json_form)
        size = page_size(request.page_size, DEFAULT_PAGE, MAX_PAGE)
        list_name, before = ("search", *wanted), None
        if request.page_token:
            before = Position(*read_token(request.page_token, list_name, (int, str)))  # type: ignore[arg-type]
        now_ms = self._clock.now_ms()
        page = await self._store.search_sessions(
            now_ms, wanted, scope=context.scope, limit=size, before=before
        )
        response = pb.SearchSessionsResponse()
        if page.next:
            response.next_page_token = make_token(list_name, (page.next.created_at_ms, page.next.id))
        async for session in in_slices(page.sessions):
            admin_to_proto.found_session(session, now_ms, as_text, response.sessions.add)
        return response

    async def ListDeliveries(
        self, request: pb.ListDeliveriesRequest, context: Any
    ) -> pb.ListDeliveriesResponse:
        if bool(request.session_id) == bool(request.agent_id):
            if request.session_id:
                raise InvalidFieldError("agent_id", request.agent_id, "cannot be given with session_id")
            raise MissingFieldsError(["session_id", "agent_id"])
        if request.state not in _STATES:
            raise InvalidFieldError("state", request.state, "is not a state that this version knows")
        size = page_size(request.page_size, DEFAULT_PAGE, MAX_PAGE)
        if request.session_id:
            return await self._list_of_session(request, context, size)
        return await self._list_of_agent(request, context, size)

    async def _list_of_session(
        self, request: pb.ListDeliveriesRequest, context: Call, size: int
    ) -> pb.ListDeliveriesResponse:
        session = await self._store.get_session(request.session_id, scope=context.scope)
        list_name, after = ("deliveries of a session", session.id, request.state), None
        if request.page_token:
            after = _place(request.page_token, list_name, (int,))
        page = await self._store.list_deliveries(
            session, limit=size, state=_STATES[request.state], after=after
        )
        is_whole = await self._sees_whole(session.agent_id, context)
        told = self._told(session.agent_id, page.deliveries, is_whole=is_whole)
        token = make_token(list_name, page.next) if page.next else ""
        return pb.ListDeliveriesResponse(deliveries=_in_state(told, request.state), next_page_token=token)

    async def _list_of_agent(
        self, request: pb.ListDeliveriesRequest, context: Call, size: int
    ) -> pb.ListDeliveriesResponse:
        agent_id, state, scope = request.agent_id, request.state, context.scope
        if state == pb.DELIVERY_STATE_ANSWERED:
            raise InvalidFieldError("state", state, "of an agent must be WAITING, IN_HAND or FAILED")
        await self._store.get_agent(agent_id, scope=scope)
        is_whole = await self._sees_whole(agent_id, context)
        list_name, after = ("deliveries of an agent", agent_id, state), None
        if state == pb.DELIVERY_STATE_IN_HAND:
            found, token = self._list_in_hand(request, scope, size, list_name)
            told = self._told(agent_id, found, is_whole=is_whole)
            return pb.ListDeliveriesResponse(deliveries=told, next_page_token=token)
        failed = state == pb.DELIVERY_STATE_FAILED
        if request.page_token:
            kinds = (str, int, str, int) if failed else (int, int, str, int)
            after = _place(request.page_token, list_name, kinds)
        page = await self._store.list_agent_deliveries(
            agent_id, scope=scope, limit=size, failed=failed, after=after
        )
        told = self._told(agent_id, page.deliveries, is_whole=is_whole)
        token = make_token(list_name, page.next) if page.next else ""
        return pb.ListDeliveriesResponse(deliveries=_in_state(told, state), next_page_token=token)

    def _list_in_hand(
        self, request: pb.ListDeliveriesRequest, scope: Scope, size: int, list_name: tuple[str, str, int]
    ) -> tuple[list[FoundDelivery], str]:
        """A page of what an agent has in hand, which is in memory, in the order of the sessions' ids; and the
        token of the next one.
        """
        last_id = ""
        if request.page_token:
            last_id = str(_place(request.page_token, list_name, (str,))[0])
        attempts = self._dispatcher.in_hand(request.agent_id)
        mine = sorted(
            session_id
            for session_id, attempt in attempts.items()
            if session_id > last_id and scope.has(attempt.work.session)
        )
        token = make_token(list_name, (mine[size - 1],)) if len(mine) > size else ""
        return [_found(attempts[session_id]) for session_id in mine[:size]], token

    async def RedeliverMessage(
        self, request: pb.RedeliverMessageRequest, context: Any
    ) -> pb.RedeliverMessageResponse:
        if missing := [field for field in ("session_id", "message_id") if not getattr(request, field)]:
            raise MissingFieldsError(missing)
        if request.message_sequence < 0:
            raise InvalidFieldError("message_sequence", request.message_sequence, "must not be less than 0")
        session = await self._store.get_session(request.session_id, scope=context.scope)
        sequence = request.message_sequence or await self._store.find_message(session, request.message_id)
        found = await self._find(session, sequence or 0)
        if not sequence or found is None or found.message_id != request.message_id:
            raise DeliveryNotFoundError(f"{session.id}-{sequence or request.message_id}")
        rule = partial(redeliver, max_open=self._settings.max_open_deliveries)
        outcome = await self._store.apply_delivery(session.id, sequence, rule, scope=context.scope)
        found = found._replace(delivery=outcome.delivery or found.delivery)
        is_whole = await self._sees_whole(session.agent_id, context)
        (delivery,) = self._told(session.agent_id, [found], is_whole=is_whole)
        return pb.RedeliverMessageResponse(delivery=delivery)

    async def _find(self, session: Session, sequence: int) -> FoundDelivery | None:
        """The delivery of a message of a session, if it has one."""
        if not 0 < sequence <= session.last_sequence:
            return None
        page = await self._store.list_deliveries(session, limit=1, state=_ANY, after=(sequence + 1,))
        found = next(iter(page.deliveries), None)
        return found if found and found.delivery.sequence == sequence else None

    async def GetAgentActivity(
        self, request: pb.GetAgentActivityRequest, context: Any
    ) -> pb.GetAgentActivityResponse:
        agent = await self._store.get_agent(request.agent_id, scope=context.scope)
        queue = await self._store.describe_queue(agent.id, scope=context.scope)
        oldest_ms = self._clock.now_ms() - queue.oldest_ms if queue.oldest_ms is not None else 0
        response = pb.GetAgentActivityResponse(
            agent=self._views.of(agent, agent_pb2.AGENT_VIEW_SUMMARY, context),
            waiting=queue.open,
            oldest_seconds=max(0, oldest_ms) / 1000,
            failed=queue.failed,
        )
        if not context.scope.owns_agent(agent):
            # The rest tells of the sessions of other tenants.
            return response
        status, times = self._dispatcher.statuses.status(agent.id), AgentTimes()
        if self._recorder is not None:
            times = self._recorder.agent_times(agent.id)
        response.waiting = status.open - status.in_hand
        workers = self._workers.list_connected(agent.id)[:MAX_WORKERS]
        response.workers.extend(map(admin_to_proto.worker, workers))
        if times.first_chunk_p95_ms is not None:
            response.first_chunk_p95_ms = times.first_chunk_p95_ms
        if times.reply_p95_ms is not None:
            response.reply_p95_ms = times.reply_p95_ms
        if status.last_failure:
            response.last_failure.CopyFrom(admin_to_proto.last_failure(status.last_failure))
        return response

    async def _sees_whole(self, agent_id: str, context: Call) -> bool:
        """Whether a caller is told what is for the operator of an agent alone: who works for it, and what its
        provider says.
        """
        if not sees_whole_agents(context.principal):
            return False
        try:
            agent = await self._store.get_agent(agent_id, scope=context.scope)
        except AgentNotFoundError:
            return bool(context.scope == EVERYTHING)
        return bool(context.scope.owns_agent(agent))

    def _told(
        self, agent_id: str, found: Iterable[FoundDelivery], *, is_whole: bool
    ) -> list[pb.MessageDelivery]:
        """The messages of deliveries of an agent, with what it has of them now."""
        attempts = self._dispatcher.in_hand(agent_id)
        holders = _holders(self._workers.list_connected(agent_id)) if attempts else {}
        now_ms, policy = self._clock.now_ms(), self._settings.retry_policy
        told = []
        for one in found:
            attempt = attempts.get(one.delivery.session_id)
            if attempt is not None and attempt.work.delivery.sequence != one.delivery.sequence:
                attempt = None
            holder = holders.get(one.delivery.id) if attempt is not None else None
            told.append(
                admin_to_proto.delivery(one, now_ms, policy.max_attempts, attempt, holder, is_whole=is_whole)
            )
        return told


def _holders(workers: Iterable[StreamWorker]) -> dict[str, StreamWorker]:
    """Who has which delivery."""
    return {delivery_id: worker for worker in workers for delivery_id in worker.held}


def _found(attempt: Attempt) -> FoundDelivery:
    """What an agent has in hand, as if it had been found."""
    work = attempt.work
    end_ms = 0 if work.session.expiry_logged else work.session.expires_at_ms
    return FoundDelivery(work.delivery, work.message.id, work.entry.at_ms, end_ms)


def _in_state(told: list[pb.MessageDelivery], state: int) -> list[pb.MessageDelivery]:
    """Those in a state, as they are told."""
    return [one for one in told if state in (pb.DELIVERY_STATE_UNSPECIFIED, one.state)]


def _place(token: str, list_name: tuple[str, str, int], kinds: tuple[type, ...]) -> Place:
    """The place in a page token. Raises InvalidPaginationError."""
    return tuple(item for item in read_token(token, list_name, kinds) if item is not None)


def _filter(request: pb.SearchSessionsRequest) -> SessionFilter:
    """What a request searches for. Raises InvalidUuidError, InvalidFieldError."""
    user_id = uuid_field("user_id", request.user_id) if request.user_id else None
    agent_id = uuid_field("agent_id", request.agent_id) if request.agent_id else None
    if request.state not in _IS_EXPIRED:
        raise InvalidFieldError("state", request.state, "is not a state that this version knows")
    prefix = request.session_id_prefix.lower()
    if prefix and not _PREFIX.fullmatch(prefix):
        raise InvalidFieldError(
            "session_id_prefix", request.session_id_prefix, "must be the beginning of a UUID, if anything"
        )
    from_ms = _instant("created_after", request) if request.HasField("created_after") else FIRST_MS
    before_ms = _instant("created_before", request) if request.HasField("created_before") else LAST_MS
    return SessionFilter(user_id, agent_id, _IS_EXPIRED[request.state], from_ms, before_ms, prefix)


def _instant(field: str, request: Any, read: Callable[[Any], int] = values.ms_ceil) -> int:
    """An instant of a request in ms. Raises InvalidFieldError for one that no Timestamp should hold."""
    instant_ms = read(getattr(request, field))
    if not FIRST_MS <= instant_ms <= LAST_MS:
        raise InvalidFieldError(field, instant_ms, "is out of the years 1 to 9999")
    return instant_ms
