"""The kind `webhook`: posts each delivery, signed by Standard Webhooks; the response is the reply."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

import httpx2
import orjson
from pydantic import BaseModel, ConfigDict, Field, InstanceOf, ValidationError

from eliza.sessions import json_text, times
from server.agents.agent_json import read_clean_json, read_json
from server.agents.allowed import endpoint_of
from server.agents.connector import (
    MAX_DELIVERY_BYTES,
    UNBOUNDED,
    AgentUnavailableError,
    Emit,
    NoReplyError,
    Work,
    count_fitting,
)
from server.agents.failure_detail import add_detail, describe_cause, read_error_words
from server.agents.guarded_http import ResponseRefusedError, is_temporary, read_events, retry_after_s
from server.agents.hosts import AddressRefusedError, Hosts
from server.agents.secrets import SecretError, Secrets
from server.clock import Clock
from server.domain.agents import Agent, WebhookSettings
from server.domain.errors import InvalidFieldError
from server.domain.log import Entry, message_of
from server.domain.messages import AgentMessage, Draft, Reply
from server.domain.sessions import Session

MIN_SECRET_BYTES: Final = 16

EVENT_TYPE: Final = "message.created"


class _Reply(BaseModel):
    """The reply, as a webhook writes it."""

    model_config = ConfigDict(strict=True)

    content: str
    metadata: dict[str, Any] | None = None
    attachments: list[Any] | None = None
    thought: str | None = None
    actions: list[str] | None = None


class _Chunk(BaseModel):
    """A piece of a reply, as a webhook streams it."""

    model_config = ConfigDict(strict=True)

    # No `str`, which refuses half a surrogate pair; the other half may come in the next piece.
    chunk: InstanceOf[str]


class _Error(BaseModel):
    """Why a webhook that streams gives no reply after all."""

    model_config = ConfigDict(strict=True)

    error: Annotated[str, Field(min_length=1, max_length=500)]


class Webhook:
    """Posts deliveries to webhooks."""

    is_inside = False

    def __init__(self, client: httpx2.AsyncClient, hosts: Hosts, secrets: Secrets, clock: Clock) -> None:
        self._client = client
        self._hosts = hosts
        self._secrets = secrets
        self._clock = clock

    def check(self, agent: Agent) -> None:
        """Refuses an address or a secret that is not allowed."""
        settings = _settings(agent)
        endpoint = endpoint_of(settings.url)
        try:
            self._hosts.check(endpoint)
            self._secrets.check(settings.secret, endpoint, is_sent=False)
        except AddressRefusedError as error:
            raise InvalidFieldError("webhook.url", settings.url, str(error)) from error
        except SecretError as error:
            raise InvalidFieldError("webhook.secret", settings.secret, str(error)) from error

    async def check_secret(self, agent: Agent) -> None:
        """Refuses a secret that cannot be read or is none."""
        settings = _settings(agent)
        try:
            signing_key(await self._secret(settings))
        except SecretError as error:
            raise InvalidFieldError("webhook.secret", settings.secret, str(error)) from error

    def capacity(self, agent_id: str) -> int:
        """There is always time."""
        return UNBOUNDED

    async def check_ready(self, agent: Agent) -> None:
        """Refuses an agent whose secret cannot be read. Raises AgentUnavailableError."""
        try:
            signing_key(await self._secret(_settings(agent)))
        except SecretError as error:
            raise _no_secret(error) from error

    @asynccontextmanager
    async def slot(self, agent: Agent) -> AsyncIterator["Webhook"]:
        """Itself."""
        yield self

    def history_messages(self, agent: Agent) -> int:
        return _settings(agent).history_messages

    async def reply(self, work: Work, emit: Emit) -> Reply:
        """Posts the delivery and reads the reply, plain or streamed.

        A temporary error and a connection that fails are worth another attempt.
        """
        settings = _settings(work.agent)
        body = delivery_body(work)
        try:
            secret = await self._secret(settings)
            now_s = self._clock.now_ms() // 1000
            headers = signed_headers(signing_key(secret), work.delivery.id, now_s, body)
        except SecretError as error:
            raise _no_secret(error) from error
        with add_detail(settings.url, secret):
            return await self._post(settings.url, body, headers, emit)

    async def _secret(self, settings: WebhookSettings) -> str:
        """The signing secret. Raises SecretError."""
        return await self._secrets.read(settings.secret, endpoint_of(settings.url), is_sent=False)

    async def _post(self, url: str, body: bytes, headers: dict[str, str], emit: Emit) -> Reply:
        """The reply to a post. Raises NoReplyError, with a detail that is not yet safe to keep."""
        try:
            async with self._client.stream("POST", url, content=body, headers=headers) as response:
                await _check_status(response, self._clock.now_ms())
                return await _read(response, emit)
        except AddressRefusedError as error:
            raise NoReplyError(f"the agent's host {error}", final=True) from error
        except ResponseRefusedError as error:
            raise NoReplyError(str(error), final=True) from error
        except httpx2.SSEError as error:
            raise NoReplyError("the agent's event stream cannot be read", final=True) from error
        except httpx2.TransportError as error:
            reason = f"the agent cannot be reached: {type(error).__name__}"
            raise NoReplyError(reason, final=False, detail=describe_cause(error)) from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise NoReplyError("the agent's answer is not HTTP", final=True, detail=str(error)) from error


def signing_key(secret: str) -> bytes:
    """The key in a secret of Standard Webhooks: base64, with or without `whsec_` before it.

    Raises SecretError.
    """
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SecretError("does not lead to base64, as `openssl rand -base64 32` makes it") from error
    if len(key) < MIN_SECRET_BYTES:
        raise SecretError(f"leads to a key of fewer than {MIN_SECRET_BYTES} bytes")
    return key


def signed_headers(key: bytes, delivery_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """Returns the signed headers of a delivery.

    The id is the same for all attempts, so that a receiver can tell a repetition.
    """
    signature = hmac.digest(key, b"%s.%d.%s" % (delivery_id.encode(), timestamp_s, body), hashlib.sha256)
    return {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "webhook-id": delivery_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }


def delivery_body(work: Work) -> bytes:
    """Returns the JSON of a delivery, with the last messages of the history that fit.

    It uses the names of the REST API.
    """
    session, history = work.session, work.history
    asked, earlier = _message(session, work.entry), [_message(session, entry) for entry in history.entries]
    data: dict[str, Any] = {
        "deliveryId": work.delivery.id,
        "attempt": work.delivery.attempts,
        "replyMessageId": work.reply_id,
        "sessionId": session.id,
        "channelId": session.channel_id,
        "agentId": session.agent_id,
        "userId": session.user_id,
        "metadata": orjson.Fragment(session.metadata),
    }
    room = MAX_DELIVERY_BYTES - len(orjson.dumps(data)) - len(asked)
    # A comma stands between two messages.
    too_many = len(earlier) - count_fitting([len(message) + 1 for message in earlier], room)
    data["message"] = orjson.Fragment(asked)
    data["history"] = [orjson.Fragment(message) for message in earlier[too_many:]]
    data["historyLeftOut"] = history.left_out + too_many
    return orjson.dumps({"type": EVENT_TYPE, "timestamp": times.iso(work.entry.at_ms), "data": data})


def _message(session: Session, entry: Entry) -> bytes:
    message = message_of(entry)
    is_agent = isinstance(message, AgentMessage)
    body: dict[str, Any] = {
        "id": message.id,
        "content": message.content,
        "authorId": session.agent_id if is_agent else session.user_id,
        "isAgent": is_agent,
        "createdAt": times.iso(entry.at_ms),
        "sequence": entry.sequence,
        "metadata": orjson.Fragment(message.metadata),
        # The same, under the name that the protos have for it: over gRPC `metadata` has the session's in it.
        "ownMetadata": orjson.Fragment(message.metadata),
    }
    if message.attachments is not None:
        body["attachments"] = orjson.Fragment(message.attachments)
    if isinstance(message, AgentMessage):
        if message.thought is not None:
            body["thought"] = message.thought
        if message.actions:
            body["actions"] = message.actions
    return orjson.dumps(body)


async def _check_status(response: httpx2.Response, now_ms: int) -> None:
    status, headers = response.status_code, response.headers
    if 200 <= status < 300:
        return
    redirects = "; redirects are not followed" if 300 <= status < 400 else ""
    raise NoReplyError(
        f"the agent answered with status {status}{redirects}",
        final=not is_temporary(status, headers),
        retry_after_s=retry_after_s(headers, now_ms),
        detail=read_error_words(_text(await response.aread())),
    )


async def _read(response: httpx2.Response, emit: Emit) -> Reply:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = ""
    try:
        if kind == "text/event-stream":
            return await _read_events(response, emit)
        if kind == "application/json":
            body = _text(await response.aread())
            return _reply(body)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'the body'}: {problem['msg']}"
            for problem in error.errors()
        )
        reason = f"the agent's answer is no reply: {problems[:300]}"
        raise NoReplyError(reason, final=True, detail=body) from error
    except ValueError as error:
        raise NoReplyError("the agent's answer is not JSON", final=True, detail=body) from error
    reason = "the agent's answer is neither application/json nor text/event-stream"
    raise NoReplyError(reason, final=True, detail=kind)


async def _read_events(response: httpx2.Response, emit: Emit) -> Reply:
    async for event in read_events(response):
        match event.event:
            case "chunk":
                emit(_Chunk.model_validate(read_json(event.data)).chunk)
            case "done":
                return _reply(event.data)
            case "error":
                raise NoReplyError(_Error.model_validate(read_clean_json(event.data)).error, final=True)
    raise NoReplyError("the agent's event stream ended without a reply", final=False)


def _text(body: bytes) -> str:
    """Decodes a body: bytes that are not UTF-8 become U+FFFD, and a byte order mark is skipped."""
    return body.decode("utf-8-sig", "replace")


def _reply(body: str) -> Reply:
    found = _Reply.model_validate(read_clean_json(body))
    try:
        metadata = json_text.metadata_text(found.metadata or {})
        attachments = None if found.attachments is None else json_text.attachments_text(found.attachments)
    except ValueError as error:
        raise NoReplyError(f"the agent's answer is no reply: it {error}", final=True) from error
    draft = Draft(found.content, metadata, attachments)
    return Reply(draft, found.thought, tuple(found.actions or ()))


def _no_secret(error: SecretError) -> AgentUnavailableError:
    return AgentUnavailableError("the agent's secret cannot be read", detail=f"webhook.secret {error}")


def _settings(agent: Agent) -> WebhookSettings:
    assert isinstance(agent.settings, WebhookSettings)
    return agent.settings
