"""UserDataService: what the service has about one user, listed, handed out and erased."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final

from eliza.sessions import values
from eliza.sessions.limits import DEFAULT_SESSIONS, MAX_SESSIONS
from eliza.sessions.v1 import user_data_service_pb2 as pb
from eliza.sessions.v1.user_data_service_pb2_grpc import UserDataServiceServicer
from server.clock import Clock
from server.domain.access import Principal, Scope, require_own_user
from server.domain.errors import MissingFieldsError, SessionNotFoundError
from server.domain.ids import uuid_field
from server.rpc import from_proto, to_proto
from server.rpc.encoding import in_slices
from server.rpc.paging import make_token, page_size, read_token
from server.rpc.records import Record, iterate_session, write_lines
from server.store.contract import Store
from server.store.values import Erased, Position

EXPORTED_SESSIONS: Final = 20
"""How many are read at a time."""

ERASED_ROWS: Final = 500
"""How many rows a step of an erasure removes at most."""

TELL_SECONDS: Final = 0.2
"""How often an erasure tells how far it is."""

BACKUPS: Final = "Backups that were made before hold the user's data until they are removed."


class UserDataService(UserDataServiceServicer):
    """See user_data_service.proto."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def ListUserSessions(
        self, request: pb.ListUserSessionsRequest, context: Any
    ) -> pb.ListUserSessionsResponse:
        user_id, as_text = (
            _user_id(request.user_id, context.principal),
            from_proto.is_text_form(request.json_form),
        )
        size = page_size(request.page_size, DEFAULT_SESSIONS, MAX_SESSIONS)
        list_name, before = ("user sessions", user_id), None
        if request.page_token:
            before = Position(*read_token(request.page_token, list_name, (int, str)))  # type: ignore[arg-type]
        now_ms = self._clock.now_ms()
        page = await self._store.list_user_sessions(user_id, scope=context.scope, limit=size, before=before)
        response = pb.ListUserSessionsResponse()
        if page.next:
            response.next_page_token = make_token(list_name, (page.next.created_at_ms, page.next.id))
        async for session in in_slices(page.sessions):
            to_proto.session(session, now_ms, as_text, response.sessions.add)
        return response

    async def ExportUserData(
        self, request: pb.ExportUserDataRequest, context: Any
    ) -> AsyncIterator[pb.ExportUserDataResponse]:
        user_id = _user_id(request.user_id, context.principal)
        async for lines in write_lines(self._records(user_id, context.scope)):
            yield pb.ExportUserDataResponse(lines=lines)

    async def _records(self, user_id: str, scope: Scope) -> AsyncIterator[Record]:
        """All that there is about a user: each session, the newest first, and behind it its log."""
        now_ms, before = self._clock.now_ms(), None
        while True:
            page = await self._store.list_user_sessions(
                user_id, scope=scope, limit=EXPORTED_SESSIONS, before=before
            )
            for session in page.sessions:
                # One that is removed meanwhile has no more log.
                with suppress(SessionNotFoundError):
                    async for record in iterate_session(self._store, session, now_ms, scope):
                        yield record
            if not page.next:
                return
            before = page.next

    async def DeleteUserData(
        self, request: pb.DeleteUserDataRequest, context: Any
    ) -> AsyncIterator[pb.DeleteUserDataResponse]:
        user_id, removed = _user_id(request.user_id, context.principal), Erased()
        last_told_s = 0.0
        while (
            step := await self._store.erase_user(user_id, scope=context.scope, limit=ERASED_ROWS)
        ) != Erased():
            removed = Erased(*map(sum, zip(removed, step, strict=True)))
            now_s = asyncio.get_running_loop().time()
            if now_s - last_told_s >= TELL_SECONDS:
                last_told_s = now_s
                total = removed.sessions + removed.entries + removed.deliveries + removed.requests
                progress = pb.DeleteUserDataResponse.Progress(
                    removed_rows=removed.rows, total_rows=max(removed.rows, total)
                )
                yield pb.DeleteUserDataResponse(progress=progress)
        not_done = await self._store.finish_erasure()
        receipt = pb.DeleteUserDataResponse.Receipt(
            user_id=user_id,
            sessions=removed.sessions,
            entries=removed.entries,
            deliveries=removed.deliveries,
            request_ids=removed.requests,
            erased_at=values.timestamp(self._clock.now_ms()),
            not_covered=[BACKUPS, *not_done],
        )
        yield pb.DeleteUserDataResponse(receipt=receipt)


def _user_id(text: str, principal: Principal) -> str:
    """The id of the user that a request is about, whom its caller may ask about.

    Raises MissingFieldsError, InvalidUuidError, PermissionDeniedError.
    """
    if not text:
        raise MissingFieldsError(["user_id"])
    user_id = uuid_field("user_id", text)
    require_own_user(principal, user_id)
    return user_id
