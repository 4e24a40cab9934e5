"""SessionService: the life of sessions."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from typing import Any, TypeVar

import orjson

from eliza.sessions import values
from eliza.sessions.limits import DEFAULT_SESSIONS, MAX_SESSIONS
from eliza.sessions.v1 import log_pb2
from eliza.sessions.v1 import session_service_pb2 as pb
from eliza.sessions.v1.session_service_pb2_grpc import SessionServiceServicer
from server.clock import Clock
from server.domain.errors import DomainError, MissingFieldsError
from server.domain.idempotency import request_key
from server.domain.ids import new_id, uuid_field
from server.domain.log import Abort, Chunk, Entry
from server.domain.sessions import create, heartbeat, if_match, renew, require_live, update_timeout
from server.domain.timeouts import TimeoutPolicy, check_numbers
from server.lifecycle.room import Room
from server.lifecycle.watch import Deleted, End, Item, Watch
from server.lifecycle.watches import Watches
from server.rpc import from_proto, to_proto
from server.rpc.encoding import Entries, in_slices
from server.rpc.health import HealthMonitor
from server.rpc.paging import make_token, page_size, read_token
from server.store.contract import Position, Store
from server.version import VERSION

_Answer = TypeVar("_Answer", pb.WatchSessionResponse, pb.WatchSessionsResponse)


class SessionService(SessionServiceServicer):
    """See session_service.proto."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        policy: TimeoutPolicy,
        health: HealthMonitor,
        watches: Watches,
        entries: Entries,
        heartbeat_s: float,
        room: Room | None = None,
    ) -> None:
        self._room = room
        self._entries = entries
        self._watches = watches
        self._heartbeat_s = heartbeat_s
        self._store = store
        self._clock = clock
        self._policy = policy
        self._health = health
        self._started_at_ms = clock.now_ms()

    async def CreateSession(self, request: pb.CreateSessionRequest, context: Any) -> pb.CreateSessionResponse:
        if missing := [field for field in ("agent_id", "user_id") if not getattr(request, field)]:
            raise MissingFieldsError(missing)
        agent_id, user_id = uuid_field("agent_id", request.agent_id), uuid_field("user_id", request.user_id)
        as_text, metadata, timeout = (
            from_proto.is_text_form(request.json_form),
            from_proto.metadata_text(request),
            from_proto.timeout_config(request.timeout_config),
        )
        # NaN cannot be told from a field that is not set once it is JSON.
        check_numbers(timeout)
        repeatable = request_key(
            f"user:{user_id}", request.request_id, agent_id, metadata, orjson.dumps(timeout).decode()
        )
        rule = partial(
            create,
            session_id=new_id(),
            channel_id=new_id(),
            agent_id=agent_id,
            user_id=user_id,
            metadata=metadata,
            policy=self._policy,
            timeout=timeout,
        )
        outcome = await self._store.create_session(agent_id, rule, repeatable)
        session = outcome.session
        return pb.CreateSessionResponse(
            session=to_proto.session(session, session.created_at_ms, as_text), replayed=outcome.replayed
        )

    async def GetSession(self, request: pb.GetSessionRequest, context: Any) -> pb.GetSessionResponse:
        as_text = from_proto.is_text_form(request.json_form)
        session_id = request.session_id or (await self._store.find_channel(request.channel_id))
        session, now_ms = await self._store.get_session(session_id), self._clock.now_ms()
        require_live(session, now_ms)
        return pb.GetSessionResponse(session=to_proto.session(session, now_ms, as_text))

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Any) -> pb.ListSessionsResponse:
        now_ms, as_text = self._clock.now_ms(), from_proto.is_text_form(request.json_form)
        agent_id = uuid_field("agent_id", request.agent_id) if request.agent_id else None
        user_id = uuid_field("user_id", request.user_id) if request.user_id else None
        size, scope, after = (
            page_size(request.page_size, DEFAULT_SESSIONS, MAX_SESSIONS),
            ("sessions", agent_id, user_id),
            None,
        )
        if request.page_token:
            after = Position(*read_token(request.page_token, scope, (int, str)))  # type: ignore[arg-type]
        page = await self._store.list_sessions(
            now_ms, limit=size, after=after, agent_id=agent_id, user_id=user_id
        )
        counts = await self._store.counts()
        response = pb.ListSessionsResponse(
            next_page_token=make_token(scope, (page.next.created_at_ms, page.next.id)) if page.next else "",
            total_size=page.total,
            stats=pb.SessionStats(
                total_sessions=counts.active + counts.expired,
                active_sessions=counts.active,
                expired_sessions=counts.expired,
            ),
        )
        async for session in in_slices(page.sessions):
            to_proto.session(session, now_ms, as_text, response.sessions.add)
        return response

    async def DeleteSession(self, request: pb.DeleteSessionRequest, context: Any) -> pb.DeleteSessionResponse:
        await self._store.delete_session(request.session_id, request.etag)
        return pb.DeleteSessionResponse()

    async def RenewSession(self, request: pb.RenewSessionRequest, context: Any) -> pb.RenewSessionResponse:
        as_text = from_proto.is_text_form(request.json_form)
        outcome = await self._store.apply(request.session_id, if_match(request.etag, renew))
        return pb.RenewSessionResponse(
            session=to_proto.session(outcome.session, self._clock.now_ms(), as_text)
        )

    async def UpdateTimeout(self, request: pb.UpdateTimeoutRequest, context: Any) -> pb.UpdateTimeoutResponse:
        as_text = from_proto.is_text_form(request.json_form)
        rule = partial(
            update_timeout, change=from_proto.timeout_config(request.timeout_config), policy=self._policy
        )
        outcome = await self._store.apply(request.session_id, if_match(request.etag, rule))
        return pb.UpdateTimeoutResponse(
            session=to_proto.session(outcome.session, self._clock.now_ms(), as_text)
        )

    async def SendHeartbeat(self, request: pb.SendHeartbeatRequest, context: Any) -> pb.SendHeartbeatResponse:
        as_text = from_proto.is_text_form(request.json_form)
        outcome = await self._store.apply(request.session_id, heartbeat)
        return pb.SendHeartbeatResponse(
            session=to_proto.session(outcome.session, self._clock.now_ms(), as_text)
        )

    async def WatchSession(
        self, request: pb.WatchSessionRequest, context: Any
    ) -> AsyncIterator[pb.WatchSessionResponse]:
        as_text = from_proto.is_text_form(request.json_form)
        with closing(Watch(self._store, self._watches, self._room)) as watch:
            await watch.join(request.session_id, request.after_sequence)
            while True:
                items = await watch.next(self._heartbeat_s)
                if not items:
                    yield pb.WatchSessionResponse(heartbeat=self._heartbeat())
                while items:
                    if isinstance(end := items[0], End):
                        if end.error:
                            raise end.error
                        return
                    # Not kept while its client reads what it has become.
                    told = [self._told(pb.WatchSessionResponse, items.pop(0), as_text)]
                    watch.hand_over()
                    yield told.pop()

    async def WatchSessions(
        self, requests: AsyncIterator[pb.WatchSessionsRequest], context: Any
    ) -> AsyncIterator[pb.WatchSessionsResponse]:
        """Does one thing after the other, a change or a page of entries, so that nothing piles up for a
        client that reads slowly.
        """
        as_text: dict[str, bool] = {}
        with closing(Watch(self._store, self._watches, self._room)) as watch:
            change = asyncio.ensure_future(anext(requests, None))
            news = asyncio.ensure_future(watch.next(self._heartbeat_s))
            try:
                while True:
                    await asyncio.wait([change, news], return_when=asyncio.FIRST_COMPLETED)
                    if change.done():
                        # What was read before the change comes before its answer.
                        news.cancel()
                        await asyncio.wait([news])
                    if not news.cancelled():
                        items = news.result()
                        if not items:
                            yield pb.WatchSessionsResponse(heartbeat=self._heartbeat())
                        while items:
                            # As above.
                            told = [self._watched(items.pop(0), as_text)]
                            watch.hand_over()
                            yield told.pop()
                    if change.done():
                        request = change.result()
                        if request is None:
                            return
                        yield await self._change(watch, request, as_text)
                        change = asyncio.ensure_future(anext(requests, None))
                    news = asyncio.ensure_future(watch.next(self._heartbeat_s))
            finally:
                change.cancel()
                news.cancel()

    async def _change(
        self, watch: Watch, request: pb.WatchSessionsRequest, as_text: dict[str, bool]
    ) -> pb.WatchSessionsResponse:
        """Does what a request of WatchSessions asks for; its answer is an `end` where that cannot be done,
        too.

        `as_text` has the form of each session that is joined.
        """
        try:
            match request.WhichOneof("change"):
                case "join":
                    form = from_proto.is_text_form(request.join.json_form)
                    after = request.join.after_sequence if request.join.HasField("after_sequence") else None
                    session = await watch.join(request.join.session_id, after)
                    as_text[session.id] = form
                    joined = pb.WatchSessionsResponse.Joined(
                        session=to_proto.session(session, self._clock.now_ms(), form),
                        after_sequence=session.last_sequence if after is None else after,
                    )
                    return pb.WatchSessionsResponse(joined=joined)
                case "leave":
                    watch.leave(request.leave.session_id)
                    as_text.pop(request.leave.session_id, None)
                    return pb.WatchSessionsResponse(
                        end=pb.WatchSessionsResponse.End(session_id=request.leave.session_id)
                    )
                case _:
                    raise MissingFieldsError(["change"])
        except DomainError as error:
            return _ended(request.join.session_id, error)

    def _watched(self, item: Item, as_text: dict[str, bool]) -> pb.WatchSessionsResponse:
        match item:
            case End():
                as_text.pop(item.session_id, None)
                return _ended(item.session_id, item.error)
            case Deleted():
                return self._told(pb.WatchSessionsResponse, item, as_text=False)
            case (session, _):
                return self._told(pb.WatchSessionsResponse, item, as_text[session.id])

    def _told(self, answer: type[_Answer], item: Item, as_text: bool) -> _Answer:
        """An item that is no End as a watch tells it."""
        match item:
            case (session, Entry() as entry):
                told = self._entries.encode_entry(answer, session, entry, as_text)
            case (_, Chunk() as chunk):
                told = self._entries.encode_chunk(answer, chunk)
            case (_, Abort() as abort):
                told = answer(aborted=to_proto.abort(abort))
            case Deleted() | End():
                told = answer(deleted=log_pb2.SessionDeleted(session_id=item.session_id))
        encoded: _Answer = told
        return encoded

    def _heartbeat(self) -> log_pb2.WatchHeartbeat:
        return log_pb2.WatchHeartbeat(now=values.timestamp(self._clock.now_ms()))

    async def GetServiceStatus(
        self, request: pb.GetServiceStatusRequest, context: Any
    ) -> pb.GetServiceStatusResponse:
        now_ms = self._clock.now_ms()
        counts = await self._store.counts()
        health = (
            pb.GetServiceStatusResponse.HEALTH_DEGRADED
            if counts.invalid
            else pb.GetServiceStatusResponse.HEALTH_HEALTHY
        )
        return pb.GetServiceStatusResponse(
            health=health if self._health.is_serving else pb.GetServiceStatusResponse.HEALTH_UNHEALTHY,
            active_sessions=counts.active,
            expiring_soon=counts.expiring_soon,
            invalid_sessions=counts.invalid,
            timestamp=values.timestamp(now_ms),
            uptime_seconds=max(0, now_ms - self._started_at_ms) / 1000,
            version=VERSION,
        )


def _ended(session_id: str, error: DomainError | None) -> pb.WatchSessionsResponse:
    end = pb.WatchSessionsResponse.End(session_id=session_id)
    if error:
        end.reason, end.message, details = to_proto.error(error)
        end.details.update(details)
    return pb.WatchSessionsResponse(end=end)
