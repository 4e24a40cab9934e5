"""MessageService: the messages of sessions."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from eliza.sessions.v1 import message_service_pb2 as pb
from eliza.sessions.v1 import values
from eliza.sessions.v1.limits import DEFAULT_MESSAGES, MAX_MESSAGES
from eliza.sessions.v1.message_service_pb2_grpc import MessageServiceServicer
from eliza.sessions.v1.times import FIRST_MS, LAST_MS
from server.agents.dispatcher import Dispatcher
from server.clock import Clock
from server.domain.errors import AgentReplyTimeoutError, DomainError, InvalidPaginationError, OverloadedError
from server.domain.events import Abort, Chunk, Entry
from server.domain.ids import new_id
from server.domain.messages import Draft
from server.domain.requests import request as request_of
from server.domain.sessions import Session, require_live, send_message
from server.rpc.convert import abort_message, attachments_text, chunk_message, is_text_form, message_message, metadata_text, session_status
from server.rpc.encoding import Entries, encode_each, join
from server.rpc.paging import make_token, page_size, read_token
from server.store.contract import Store


class MessageService(MessageServiceServicer):
    """See message_service.proto."""

    def __init__(self, store: Store, clock: Clock, dispatcher: Dispatcher, entries: Entries, reply_deadline_s: float) -> None:
        self._entries = entries
        self._store = store
        self._clock = clock
        self._dispatcher = dispatcher
        self._reply_deadline_s = reply_deadline_s

    async def SendMessage(self, request: pb.SendMessageRequest, context: Any) -> pb.SendMessageResponse:
        return await self._send(request, new_id())

    async def Converse(self, request: pb.ConverseRequest, context: Any) -> AsyncIterator[pb.ConverseResponse]:
        message_id, as_text = new_id(), is_text_form(request.message.json_form)
        with self._dispatcher.following(message_id) as progress:
            sent = await self._send(request.message, message_id)
            if sent.replayed:
                stored_id = sent.message.message_id
                await self._dispatcher.follow_again(message_id, stored_id, sent.message.session_id, sent.message.sequence)
                message_id = stored_id
            yield pb.ConverseResponse(user_message=sent)
            deadline = asyncio.get_running_loop().time() + self._reply_deadline_s
            while True:
                try:
                    async with asyncio.timeout_at(deadline):
                        item = await progress.get()
                except TimeoutError:
                    raise AgentReplyTimeoutError(sent.message.session_id, message_id) from None
                match item:
                    case Chunk():
                        yield pb.ConverseResponse(chunk=chunk_message(item))
                    case Abort():
                        yield pb.ConverseResponse(aborted=abort_message(item))
                    case Entry():
                        session = await self._store.get_session(item.session_id)
                        yield self._entries.encode_reply(session, item, as_text)
                        return
                    case _:
                        raise item

    async def _send(self, request: pb.SendMessageRequest, message_id: str) -> pb.SendMessageResponse:
        """Stores a message. What is stored is delivered, also when this call is cancelled while it waits for the commit."""
        session_id = request.session_id.lower()
        try:
            as_text, attachments = is_text_form(request.json_form), attachments_text(request)
            draft = Draft(request.content, metadata_text(request), attachments)
        except DomainError:
            # The session comes before its message in the order of checks.
            await self._live_session(session_id)
            raise
        repeatable = None
        if request.request_id:
            content = draft.content, draft.metadata, draft.attachments or "null"
            repeatable = request_of(f"session:{session_id}", request.request_id, *content)
        try:
            self._dispatcher.require_room(session_id)
        except OverloadedError:
            # A message that is repeated adds none.
            if repeatable is None or not await self._store.knows(repeatable):
                raise
        rule = partial(send_message, message_id=message_id, draft=draft)
        outcome = await self._store.apply(session_id, rule, repeatable)
        (entry,) = outcome.entries
        assert entry.message is not None
        return pb.SendMessageResponse(
            message=message_message(outcome.session, entry, entry.message, as_text),
            session_status=session_status(entry),
            replayed=outcome.replayed,
        )

    async def ListMessages(self, request: pb.ListMessagesRequest, context: Any) -> pb.ListMessagesResponse:
        session, as_text = await self._live_session(request.session_id.lower()), is_text_form(request.json_form)
        size = page_size(request.page_size, DEFAULT_MESSAGES, MAX_MESSAGES)
        before_ms = _cursor("before", values.ms_ceil(request.before)) if request.HasField("before") else None
        after_ms = _cursor("after", values.ms_floor(request.after)) if request.HasField("after") else None
        forward = after_ms is not None and before_ms is None
        scope = ("messages", session.id, before_ms, after_ms)
        if request.page_token:
            (position_ms,) = read_token(request.page_token, scope, (int,))
            assert isinstance(position_ms, int)
            before_ms, after_ms = (before_ms, position_ms) if forward else (position_ms, after_ms)
        page = await self._store.list_messages(session, limit=size, before_ms=before_ms, after_ms=after_ms)
        response = pb.ListMessagesResponse(has_more=page.has_more)
        if page.messages:
            newest_ms, oldest_ms = page.messages[0].at_ms, page.messages[-1].at_ms
            response.cursor_before.CopyFrom(values.timestamp(oldest_ms))
            response.cursor_after.CopyFrom(values.timestamp(newest_ms))
            if page.has_more:
                response.next_page_token = make_token(scope, (newest_ms if forward else oldest_ms,))
        stored = [(entry, entry.message) for entry in page.messages if entry.message]
        messages = await encode_each(stored, lambda one: message_message(session, *one, as_text))
        joined: pb.ListMessagesResponse = join(response, {"messages": messages})
        return joined

    async def _live_session(self, session_id: str) -> Session:
        session = await self._store.get_session(session_id)
        require_live(session, self._clock.now_ms())
        return session


def _cursor(parameter: str, instant_ms: int) -> int:
    """A cursor in ms. Raises InvalidPaginationError for one that no Timestamp should hold."""
    if not FIRST_MS <= instant_ms <= LAST_MS:
        raise InvalidPaginationError(parameter, instant_ms, "is out of the years 1 to 9999")
    return instant_ms
