"""MessageService: the messages of sessions."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from functools import partial
from typing import Any, Final

from eliza.sessions import values
from eliza.sessions.call_metadata import MESSAGE_ID_KEY
from eliza.sessions.limits import DEFAULT_MESSAGES, MAX_MESSAGES
from eliza.sessions.times import FIRST_MS, LAST_MS
from eliza.sessions.v1 import message_pb2
from eliza.sessions.v1 import message_service_pb2 as pb
from eliza.sessions.v1.message_service_pb2_grpc import MessageServiceServicer
from server.clock import Clock
from server.domain.access import Scope, require_transcripts
from server.domain.errors import (
    AgentReplyError,
    AgentReplyTimeoutError,
    DomainError,
    InvalidFieldError,
    InvalidPaginationError,
    SessionExpiredError,
    SessionNotFoundError,
    UnavailableError,
)
from server.domain.idempotency import request_key
from server.domain.ids import id_at
from server.domain.log import Abort, Chunk, Entry, Expiry, Piece, ReplyFailure, message_of
from server.domain.messages import Draft
from server.domain.quotas import NO_QUOTAS, Quotas
from server.domain.sessions import Session, require_live, send_message
from server.lifecycle.reply_waits import Answer, ReplyWait
from server.lifecycle.watch import End, Item, Watch
from server.lifecycle.watches import Watches
from server.rpc import from_proto, to_proto
from server.rpc.call import Call
from server.rpc.encoding import Entries, in_slices
from server.rpc.paging import make_token, page_size, read_token
from server.rpc.pipeline import Waiting
from server.rpc.records import iterate_session, write_lines
from server.store.contract import Store
from server.telemetry.traces import NO_TRACES, Traces

ANSWER_SECONDS: Final = 0.5
"""How long before a call's deadline its wait for the reply ends, so that the answer gets out."""


class MessageService(MessageServiceServicer):
    """See message_service.proto."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        watches: Watches,
        entries: Entries,
        reply_deadline_s: float,
        max_open: int,
        quotas: Quotas = NO_QUOTAS,
        *,
        users_may_read_transcripts: bool = False,
        traces: Traces = NO_TRACES,
    ) -> None:
        """`max_open` bounds the deliveries of one session that are open."""
        self._traces = traces
        self._users_may_read_transcripts = users_may_read_transcripts
        self._max_open = max_open
        self._quotas = quotas
        self._entries = entries
        self._store = store
        self._clock = clock
        self._watches = watches
        self._reply_deadline_s = reply_deadline_s

    async def SendMessage(self, request: pb.SendMessageRequest, context: Any) -> pb.SendMessageResponse:
        wait_s = values.seconds(request.reply_wait)
        if wait_s <= 0:
            return await self._send(request, self._new_id(), context.scope)
        message_id = self._new_id()
        wait = self._watches.reply_waits.join(request.session_id, message_id)
        try:
            sent = await self._send(request, message_id, context.scope)
        except BaseException:
            wait.close()
            raise
        as_text = from_proto.is_text_form(request.json_form)
        waiting: Any = Waiting(partial(self._await_reply, wait, wait_s, sent, as_text, context))
        answer: pb.SendMessageResponse = waiting
        return answer

    def _new_id(self) -> str:
        """An id for a message that is made now."""
        return id_at(self._clock.now_ms())

    async def _await_reply(
        self, wait: ReplyWait, wait_s: float, sent: pb.SendMessageResponse, as_text: bool, context: Call
    ) -> pb.SendMessageResponse:
        """Tells the id of a message that is stored, waits for its reply, and adds what came of it."""
        message, answer = sent.message, None
        with closing(wait):
            await context.send_initial_metadata(((MESSAGE_ID_KEY, message.message_id),))
            if sent.replayed:
                wait.follow(message.sequence)
                answer = await self._find_answer(message, context.scope)
            if answer is None:
                left_s = context.time_remaining()
                most_s = math.inf if left_s is None else left_s - min(ANSWER_SECONDS, left_s / 2)
                answer = await wait.answer(min(wait_s, self._reply_deadline_s, most_s))
        match answer:
            case None:
                sent.pending.SetInParent()
            case DomainError() as error:
                _refuse(sent, error)
            case (session, Entry(event=ReplyFailure() as failure)):
                _refuse(sent, AgentReplyError(session.id, message.message_id, failure.reason))
            case (session, entry):
                sent.reply.CopyFrom(to_proto.message(session, entry, message_of(entry), as_text))
        return sent

    async def Converse(self, request: pb.ConverseRequest, context: Any) -> AsyncIterator[pb.ConverseResponse]:
        """Watches the session's log from before the message is stored, and tells what of it answers the
        message.
        """
        as_text = from_proto.is_text_form(request.message.json_form)
        with closing(Watch(self._store, self._watches, scope=context.scope)) as watch:
            with suppress(SessionNotFoundError, SessionExpiredError):
                # A message that is repeated does not mind.
                await watch.join(request.message.session_id, None)
            sent = await self._send(request.message, self._new_id(), context.scope)
            message = sent.message
            yield pb.ConverseResponse(user_message=sent)
            if not sent.replayed:
                watch.skip_to(message.session_id, message.sequence)
            elif answer := await self._find_answer(message, context.scope):
                if isinstance(answer, DomainError):
                    raise answer
                yield self._told(message.message_id, answer, as_text)
                return
            deadline_s = asyncio.get_running_loop().time() + self._reply_deadline_s
            async for item in _answers(watch, message, deadline_s):
                yield self._told(message.message_id, item, as_text)

    async def _find_answer(self, message: message_pb2.Message, scope: Scope) -> Answer | None:
        """What answers a message that was sent before: the reply, the final failure, or the end of its
        session; None where it is yet to come.
        """
        try:
            session = await self._store.get_session(message.session_id, scope=scope)
        except SessionNotFoundError:
            return SessionNotFoundError(message.session_id)
        if entry := await self._store.find_answer(session.id, message.sequence, scope=scope):
            return session, entry
        return SessionExpiredError(session.id, session.expires_at_ms) if session.expiry_logged else None

    def _told(
        self, message_id: str, item: tuple[Session, Entry | Piece], as_text: bool
    ) -> pb.ConverseResponse:
        """A part of the answer to a message as it goes out. Raises AgentReplyError where there is none."""
        session, part = item
        match part:
            case Chunk():
                return pb.ConverseResponse(chunk=to_proto.chunk(part))
            case Abort():
                return pb.ConverseResponse(aborted=to_proto.abort(part))
            case Entry(event=ReplyFailure() as failure):
                raise AgentReplyError(session.id, message_id, failure.reason)
        reply: pb.ConverseResponse = self._entries.encode_reply(session, part, as_text)
        return reply

    async def _send(
        self, request: pb.SendMessageRequest, message_id: str, scope: Scope
    ) -> pb.SendMessageResponse:
        """Stores a message, by this id.

        What is stored is delivered, also when this call is cancelled while it waits for the commit.
        """
        session_id, draft = request.session_id, from_proto.draft(request)
        repeatable = None
        if isinstance(draft, Draft):
            content = draft.content, draft.metadata, draft.attachments or "null"
            repeatable = request_key(f"session:{session_id}", request.request_id, *content)
        trace = self._traces.stored()
        rule = partial(
            send_message,
            message_id=message_id,
            draft=draft,
            max_open=self._max_open,
            quotas=self._quotas,
            trace=trace,
        )
        outcome = await self._store.apply(session_id, rule, repeatable, scope=scope)
        entry = outcome.entry
        assert entry is not None
        if trace:
            self._traces.note({"eliza.session_id": session_id, "eliza.message_id": message_of(entry).id})
        return pb.SendMessageResponse(
            message=to_proto.message(
                outcome.session, entry, message_of(entry), from_proto.is_text_form(request.json_form)
            ),
            session_status=to_proto.session_status(entry),
            replayed=outcome.replayed,
        )

    async def ListMessages(self, request: pb.ListMessagesRequest, context: Any) -> pb.ListMessagesResponse:
        session, as_text = (
            await self._live_session(request.session_id, context.scope),
            from_proto.is_text_form(request.json_form),
        )
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
        async for entry in in_slices(page.messages):
            if message := entry.message:
                to_proto.message(session, entry, message, as_text, response.messages.add)
        return response

    async def ExportTranscript(
        self, request: pb.ExportTranscriptRequest, context: Any
    ) -> AsyncIterator[pb.ExportTranscriptResponse]:
        require_transcripts(context.principal, users_may_read=self._users_may_read_transcripts)
        session = await self._store.get_session(request.session_id, scope=context.scope)
        if request.after_sequence < 0:
            raise InvalidFieldError("after_sequence", request.after_sequence, "is less than 0")
        records = iterate_session(
            self._store, session, self._clock.now_ms(), context.scope, request.after_sequence
        )
        async for lines in write_lines(records):
            yield pb.ExportTranscriptResponse(lines=lines)

    async def _live_session(self, session_id: str, scope: Scope) -> Session:
        session = await self._store.get_session(session_id, scope=scope)
        require_live(session, self._clock.now_ms())
        return session


def _refuse(sent: pb.SendMessageResponse, error: DomainError) -> None:
    """Says in an answer why there is no reply."""
    sent.failure.reason, sent.failure.message, details = to_proto.error(error)
    sent.failure.details.update(details)


async def _answers(
    watch: Watch, message: message_pb2.Message, deadline_s: float
) -> AsyncIterator[tuple[Session, Entry | Piece]]:
    """What of a session's log answers a message: pieces, and at the end the reply, or that there is none.

    :raises AgentReplyTimeoutError: that has not come by the event loop's time `deadline_s`, or the service
    stops :raises SessionExpiredError, SessionNotFoundError: the session has ended
    """
    items: list[Item] = []
    while True:
        try:
            items = await watch.next(deadline_s - asyncio.get_running_loop().time())
        except UnavailableError:
            if not watch.is_ending:
                raise
        if not items:
            raise AgentReplyTimeoutError(message.session_id, message.message_id)
        for item in items:
            match item:
                case End(error=DomainError() as error):
                    raise error
                case (_, Entry(event=Expiry()) as expiry):
                    raise SessionExpiredError(expiry.session_id, expiry.expires_at_ms)
                case (session, Chunk() | Abort() | Entry() as part) if part.answers == message.sequence:
                    yield session, part
                    if isinstance(part, Entry):
                        return
        items.clear()


def _cursor(parameter: str, instant_ms: int) -> int:
    """A cursor in ms. Raises InvalidPaginationError for one that no Timestamp should hold."""
    if not FIRST_MS <= instant_ms <= LAST_MS:
        raise InvalidPaginationError(parameter, instant_ms, "is out of the years 1 to 9999")
    return instant_ms
