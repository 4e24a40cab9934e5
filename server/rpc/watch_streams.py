"""The streams of SessionService: of one session, or of several over one stream."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing
from typing import TypeVar

from eliza.sessions import values
from eliza.sessions.v1 import log_pb2
from eliza.sessions.v1 import session_service_pb2 as pb
from server.clock import Clock
from server.domain.access import EVERYTHING, Scope
from server.domain.errors import AgentNotFoundError, DomainError, MissingFieldsError
from server.domain.log import Abort, Chunk, Entry
from server.domain.sessions import Session, is_answered_by
from server.lifecycle.backpressure import Backpressure
from server.lifecycle.watch import Deleted, End, Item, Watch
from server.lifecycle.watches import Watches
from server.rpc import from_proto, to_proto
from server.rpc.encoding import Entries
from server.store.contract import Store

_Answer = TypeVar("_Answer", pb.WatchSessionResponse, pb.WatchSessionsResponse)


class WatchStreams:
    """Streams the events of sessions, and heartbeats between them."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        watches: Watches,
        entries: Entries,
        heartbeat_s: float,
        backpressure: Backpressure | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._watches = watches
        self._entries = entries
        self._heartbeat_s = heartbeat_s
        self._backpressure = backpressure

    async def watch_one(
        self, request: pb.WatchSessionRequest, scope: Scope
    ) -> AsyncIterator[pb.WatchSessionResponse]:
        """Streams one session until it ends. Raises DomainError."""
        as_text = from_proto.is_text_form(request.json_form)
        with closing(Watch(self._store, self._watches, self._backpressure, scope=scope)) as watch:
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
                    # An item is not kept while its client reads the answer.
                    told = [self._answer(pb.WatchSessionResponse, items.pop(0), as_text)]
                    watch.hand_over()
                    yield told.pop()

    async def watch_many(
        self, requests: AsyncIterator[pb.WatchSessionsRequest], scope: Scope
    ) -> AsyncIterator[pb.WatchSessionsResponse]:
        """Streams the sessions that requests join, until the requests end.

        Handles one change or one page of entries at a time, so that nothing piles up for a slow client.
        """
        as_text: dict[str, bool] = {}
        with closing(Watch(self._store, self._watches, self._backpressure, scope=scope)) as watch:
            change = asyncio.ensure_future(anext(requests, None))
            news = asyncio.ensure_future(watch.next(self._heartbeat_s))
            try:
                while True:
                    await asyncio.wait([change, news], return_when=asyncio.FIRST_COMPLETED)
                    if change.done():
                        # Items that were read before the change go out before its answer.
                        news.cancel()
                        await asyncio.wait([news])
                    if not news.cancelled():
                        items = news.result()
                        if not items:
                            yield pb.WatchSessionsResponse(heartbeat=self._heartbeat())
                        while items:
                            # As above.
                            told = [self._answer_item(items.pop(0), as_text)]
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
        """Joins or leaves a session. The answer is an `end` also where that cannot be done.

        `as_text` has the JSON form of each joined session.
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
                        agent_name=await self._agent_name(session),
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
            return _end(request.join.session_id, error)

    async def _agent_name(self, session: Session) -> str:
        """What people call the agent of a session; empty where it has been removed."""
        try:
            agent = await self._store.get_agent(session.agent_id, scope=EVERYTHING)
        except AgentNotFoundError:
            return ""
        return agent.name if is_answered_by(session, agent) else ""

    def _answer_item(self, item: Item, as_text: dict[str, bool]) -> pb.WatchSessionsResponse:
        match item:
            case End():
                as_text.pop(item.session_id, None)
                return _end(item.session_id, item.error)
            case Deleted():
                return self._answer(pb.WatchSessionsResponse, item, as_text=False)
            case (session, _):
                return self._answer(pb.WatchSessionsResponse, item, as_text[session.id])

    def _answer(self, answer: type[_Answer], item: Item, as_text: bool) -> _Answer:
        """Makes the answer for an item that is no End."""
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


def _end(session_id: str, error: DomainError | None) -> pb.WatchSessionsResponse:
    end = pb.WatchSessionsResponse.End(session_id=session_id)
    if error:
        end.reason, end.message, details = to_proto.error(error)
        end.details.update(details)
    return pb.WatchSessionsResponse(end=end)
