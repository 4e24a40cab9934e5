"""SessionService: the life of sessions."""

from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Any, Final

import orjson

from eliza.sessions import values
from eliza.sessions.limits import DEFAULT_SESSIONS, MAX_SESSIONS
from eliza.sessions.v1 import session_service_pb2 as pb
from eliza.sessions.v1.session_service_pb2_grpc import SessionServiceServicer
from server.access.session_tokens import SessionTokens
from server.clock import Clock
from server.domain.access import EVERYTHING, Principal, Verb, require_own_user, sees_counts
from server.domain.errors import InvalidFieldError, MissingFieldsError, PermissionDeniedError
from server.domain.idempotency import creation_scope, request_key
from server.domain.ids import id_at, uuid_field
from server.domain.quotas import NO_QUOTAS, Quotas, UserQuota
from server.domain.sessions import create, heartbeat, if_match, renew, require_live, update_timeout
from server.domain.timeouts import TimeoutPolicy, check_numbers
from server.lifecycle.health import HealthMonitor
from server.rpc import from_proto, to_proto
from server.rpc.encoding import in_slices
from server.rpc.paging import make_token, page_size, read_token
from server.rpc.watch_streams import WatchStreams
from server.store.contract import Store
from server.store.values import Position
from server.version import VERSION

MIN_TOKEN_MS: Final = 1000
"""How long a token for one session is good at least."""


class SessionService(SessionServiceServicer):
    """See session_service.proto."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        policy: TimeoutPolicy,
        health: HealthMonitor,
        streams: WatchStreams,
        quotas: Quotas = NO_QUOTAS,
        *,
        tokens: SessionTokens,
        token_seconds: float,
    ) -> None:
        """A token for one session is good for `token_seconds` at most."""
        self._quotas = quotas
        self._tokens = tokens
        self._token_seconds = token_seconds
        self._streams = streams
        self._store = store
        self._clock = clock
        self._policy = policy
        self._health = health
        self._started_at_ms = clock.now_ms()

    async def CreateSession(self, request: pb.CreateSessionRequest, context: Any) -> pb.CreateSessionResponse:
        if missing := [field for field in ("agent_id", "user_id") if not getattr(request, field)]:
            raise MissingFieldsError(missing)
        agent_id, user_id = uuid_field("agent_id", request.agent_id), uuid_field("user_id", request.user_id)
        require_own_user(context.principal, user_id)
        as_text = from_proto.is_text_form(request.json_form)
        metadata = from_proto.metadata_text(request)
        timeout = from_proto.timeout_config(request.timeout_config)
        # As JSON, NaN would look like an unset field.
        check_numbers(timeout)
        repeatable = request_key(
            creation_scope(user_id, context.scope.new_tenant),
            request.request_id,
            agent_id,
            metadata,
            orjson.dumps(timeout).decode(),
        )
        now_ms = self._clock.now_ms()
        rule = partial(
            create,
            session_id=id_at(now_ms),
            channel_id=id_at(now_ms),
            agent_id=agent_id,
            user_id=user_id,
            metadata=metadata,
            policy=self._policy,
            timeout=timeout,
            tenant=context.scope.new_tenant,
        )
        limit = self._quotas.user_sessions
        outcome = await self._store.create_session(
            agent_id,
            rule,
            repeatable,
            scope=context.scope,
            of=UserQuota(user_id, context.scope.new_tenant, limit) if limit else None,
        )
        session = outcome.session
        return pb.CreateSessionResponse(
            session=to_proto.session(session, session.created_at_ms, as_text), replayed=outcome.replayed
        )

    async def GetSession(self, request: pb.GetSessionRequest, context: Any) -> pb.GetSessionResponse:
        as_text = from_proto.is_text_form(request.json_form)
        session_id = request.session_id or (
            await self._store.find_channel(request.channel_id, scope=context.scope)
        )
        session = await self._store.get_session(session_id, scope=context.scope)
        now_ms = self._clock.now_ms()
        require_live(session, now_ms)
        return pb.GetSessionResponse(session=to_proto.read_session(session, now_ms, as_text))

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Any) -> pb.ListSessionsResponse:
        now_ms, as_text = self._clock.now_ms(), from_proto.is_text_form(request.json_form)
        agent_id = uuid_field("agent_id", request.agent_id) if request.agent_id else None
        user_id = uuid_field("user_id", request.user_id) if request.user_id else None
        size = page_size(request.page_size, DEFAULT_SESSIONS, MAX_SESSIONS)
        scope, after = ("sessions", agent_id, user_id), None
        if request.page_token:
            after = Position(*read_token(request.page_token, scope, (int, str)))  # type: ignore[arg-type]
        page = await self._store.list_sessions(
            now_ms, scope=context.scope, limit=size, after=after, agent_id=agent_id, user_id=user_id
        )
        counts = await self._store.counts(scope=context.scope)
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
        await self._store.delete_session(request.session_id, request.etag, scope=context.scope)
        return pb.DeleteSessionResponse()

    async def RenewSession(self, request: pb.RenewSessionRequest, context: Any) -> pb.RenewSessionResponse:
        as_text = from_proto.is_text_form(request.json_form)
        outcome = await self._store.apply(
            request.session_id, if_match(request.etag, renew), scope=context.scope
        )
        return pb.RenewSessionResponse(
            session=to_proto.session(outcome.session, self._clock.now_ms(), as_text)
        )

    async def UpdateTimeout(self, request: pb.UpdateTimeoutRequest, context: Any) -> pb.UpdateTimeoutResponse:
        as_text = from_proto.is_text_form(request.json_form)
        rule = partial(
            update_timeout, change=from_proto.timeout_config(request.timeout_config), policy=self._policy
        )
        outcome = await self._store.apply(
            request.session_id, if_match(request.etag, rule), scope=context.scope
        )
        return pb.UpdateTimeoutResponse(
            session=to_proto.session(outcome.session, self._clock.now_ms(), as_text)
        )

    async def SendHeartbeat(self, request: pb.SendHeartbeatRequest, context: Any) -> pb.SendHeartbeatResponse:
        as_text = from_proto.is_text_form(request.json_form)
        outcome = await self._store.apply(request.session_id, heartbeat, scope=context.scope)
        return pb.SendHeartbeatResponse(
            session=to_proto.session(outcome.session, self._clock.now_ms(), as_text)
        )

    def WatchSession(
        self, request: pb.WatchSessionRequest, context: Any
    ) -> AsyncIterator[pb.WatchSessionResponse]:
        return self._streams.watch_one(request, context.scope)

    def WatchSessions(
        self, requests: AsyncIterator[pb.WatchSessionsRequest], context: Any
    ) -> AsyncIterator[pb.WatchSessionsResponse]:
        return self._streams.watch_many(requests, context.scope)

    async def CreateAccessToken(
        self, request: pb.CreateAccessTokenRequest, context: Any
    ) -> pb.CreateAccessTokenResponse:
        principal, now_ms = context.principal, self._clock.now_ms()
        session = await self._store.get_session(request.session_id, scope=context.scope)
        require_live(session, now_ms)
        verbs = _verbs(request.verbs, principal)
        most_ms = round(self._token_seconds * 1000)
        lifetime_ms = most_ms
        if request.HasField("lifetime"):
            lifetime_ms = round(values.seconds(request.lifetime) * 1000)
            if not MIN_TOKEN_MS <= lifetime_ms <= most_ms:
                why = f"must be between {MIN_TOKEN_MS // 1000} and {most_ms // 1000} seconds"
                raise InvalidFieldError("lifetime", lifetime_ms / 1000, why)
        # No longer than the credential that it is made with.
        ends_ms = min(now_ms + lifetime_ms, principal.not_after_ms or now_ms + lifetime_ms)
        token = self._tokens.make(
            principal_id=principal.id,
            tenant=session.tenant,
            user_id=session.user_id,
            session_id=session.id,
            verbs=verbs,
            not_after_ms=ends_ms,
        )
        return pb.CreateAccessTokenResponse(
            access_token=token, expires_at=values.timestamp(ends_ms), verbs=sorted(verbs)
        )

    async def GetServiceStatus(
        self, request: pb.GetServiceStatusRequest, context: Any
    ) -> pb.GetServiceStatusResponse:
        now_ms = self._clock.now_ms()
        counts = await self._store.counts(scope=EVERYTHING)
        health = pb.GetServiceStatusResponse.HEALTH_HEALTHY
        if counts.invalid:
            health = pb.GetServiceStatusResponse.HEALTH_DEGRADED
        if not self._health.is_serving:
            health = pb.GetServiceStatusResponse.HEALTH_UNHEALTHY
        if not sees_counts(context.principal):
            return pb.GetServiceStatusResponse(
                health=health, timestamp=values.timestamp(now_ms), status_only=True
            )
        if context.scope is not EVERYTHING:
            counts = await self._store.counts(scope=context.scope)
        return pb.GetServiceStatusResponse(
            health=health,
            active_sessions=counts.active,
            expiring_soon=counts.expiring_soon,
            invalid_sessions=counts.invalid,
            timestamp=values.timestamp(now_ms),
            uptime_seconds=max(0, now_ms - self._started_at_ms) / 1000,
            version=VERSION,
        )


def _verbs(words: Iterable[str], principal: Principal) -> frozenset[Verb]:
    """The verbs of a token: those that are named, or to read and send.

    Raises InvalidFieldError, PermissionDeniedError where the caller itself may not.
    """
    verbs = set()
    for word in words:
        if word not in list(Verb):
            raise InvalidFieldError("verbs", word, f"must be one of {', '.join(Verb)}")
        verbs.add(Verb(word))
    wanted = frozenset(verbs or {Verb.READ, Verb.SEND})
    if not wanted <= principal.verbs:
        raise PermissionDeniedError("A token cannot allow more than the credential that it is made with")
    return wanted
