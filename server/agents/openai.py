"""The kind `openai`: asks any endpoint with OpenAI's chat completions by the official library, streamed."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import httpx2

from server.agents.agent_json import read_json
from server.agents.allowed import endpoint_of
from server.agents.connector import UNBOUNDED, AgentUnavailableError, Emit, NoReplyError, Work
from server.agents.failure_detail import add_detail, describe_cause, read_error_text
from server.agents.guarded_http import ResponseRefusedError, is_temporary, read_events, retry_after_s
from server.agents.hosts import AddressRefusedError, Hosts
from server.agents.secrets import SecretError, Secrets
from server.clock import Clock
from server.domain.agents import Agent, OpenAiSettings
from server.domain.errors import InvalidFieldError
from server.domain.log import Entry, message_of
from server.domain.messages import AgentMessage, Draft, Reply

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletionMessageParam

_Kind = TypeVar("_Kind", dict[str, Any], list[Any], str)

END_SECONDS: Final = 5.0
"""How long an endpoint may take to end its stream once the completion is finished."""
_NO_COMPLETION: Final = "the agent's answer is no completion"

NO_KEY = "none"
"""The key for an endpoint that wants none: the library requires one."""


class OpenAi:
    """Asks chat completions endpoints."""

    is_inside = False

    def __init__(self, client: httpx2.AsyncClient, hosts: Hosts, secrets: Secrets, clock: Clock) -> None:
        self._client = client
        self._hosts = hosts
        self._secrets = secrets
        self._clock = clock

    def check(self, agent: Agent) -> None:
        """Refuses an address or a key that is not allowed, and any agent without the library installed."""
        settings = _settings(agent)
        if importlib.util.find_spec("openai") is None:
            raise InvalidFieldError(
                "kind", agent.kind, "needs the package openai: pip install '.[openai]' in the repository"
            )
        try:
            self._hosts.check(endpoint_of(settings.base_url))
            self._check_key(settings)
        except AddressRefusedError as error:
            raise InvalidFieldError("openai.base_url", settings.base_url, str(error)) from error
        except SecretError as error:
            raise InvalidFieldError("openai.api_key", settings.api_key, str(error)) from error

    async def check_secret(self, agent: Agent) -> None:
        """Refuses a key that cannot be read."""
        settings = _settings(agent)
        try:
            await self._key(settings)
        except SecretError as error:
            raise InvalidFieldError("openai.api_key", settings.api_key, str(error)) from error

    def capacity(self, agent_id: str) -> int:
        """There is always time."""
        return UNBOUNDED

    async def check_ready(self, agent: Agent) -> None:
        """Refuses an agent whose secret cannot be read. Raises AgentUnavailableError."""
        try:
            await self._key(_settings(agent))
        except SecretError as error:
            raise _no_key(error) from error

    @asynccontextmanager
    async def slot(self, agent: Agent) -> AsyncIterator["OpenAi"]:
        """Itself."""
        yield self

    def history_messages(self, agent: Agent) -> int:
        """The setting, which counts the message to answer."""
        return _settings(agent).history_messages - 1

    async def reply(self, work: Work, emit: Emit) -> Reply:
        """Asks for a completion of the conversation.

        A temporary error and a connection that fails are worth another attempt.
        """
        settings = _settings(work.agent)
        try:
            key = await self._key(settings)
        except SecretError as error:
            raise _no_key(error) from error
        with add_detail(settings.base_url, key if settings.api_key else ""):
            messages = conversation(settings, [*work.history.entries, work.entry])
            return Reply(Draft(await self._complete(settings, key, messages, emit)))

    async def _complete(
        self, settings: OpenAiSettings, key: str, messages: "list[ChatCompletionMessageParam]", emit: Emit
    ) -> str:
        """The text of the completion. Raises NoReplyError, with a detail that is not yet safe to keep."""
        # Here, because it takes half a second and most services do without.
        import openai

        try:
            # The library takes missing arguments from the environment of the service.
            endpoint = _library_client()(
                base_url=settings.base_url,
                api_key=key,
                admin_api_key="",
                organization="",
                project="",
                webhook_secret="",
                http_client=self._client,
                max_retries=0,
                timeout=None,
            )
            stream = await endpoint.chat.completions.create(
                model=settings.model, messages=messages, stream=True, **_sampling(settings)
            )
            async with stream:
                # The library's own reader gives up at a piece that is empty.
                return await _read(stream.response, emit)
        except openai.APIStatusError as error:
            status, headers = error.status_code, error.response.headers
            raise NoReplyError(
                f"the agent answered with status {status}",
                final=not is_temporary(status, headers),
                retry_after_s=retry_after_s(headers, self._clock.now_ms()),
                detail=read_error_text(error.body, error.response.text),
            ) from error
        except (openai.APIConnectionError, httpx2.TransportError) as error:
            raise _unreachable(error) from error
        except openai.OpenAIError as error:
            # An answer that the library cannot read.
            raise NoReplyError(_NO_COMPLETION, final=False, detail=str(error)) from error

    def _check_key(self, settings: OpenAiSettings) -> None:
        """Raises SecretError for a key that may not go to the endpoint."""
        if not settings.api_key:
            return
        endpoint = endpoint_of(settings.base_url)
        self._secrets.check(settings.api_key, endpoint, is_sent=True)
        if urlsplit(settings.base_url).scheme == "http" and not self._hosts.is_allowed(endpoint):
            raise SecretError("is sent by https only, except to hosts that AGENT_ALLOWED_HOSTS names")

    async def _key(self, settings: OpenAiSettings) -> str:
        """The key to send. Raises SecretError."""
        if not settings.api_key:
            return NO_KEY
        self._check_key(settings)
        return await self._secrets.read(settings.api_key, endpoint_of(settings.base_url), is_sent=True)


@cache
def _library_client() -> "type[AsyncOpenAI]":
    """Returns the library's client without headers from the environment (OPENAI_CUSTOM_HEADERS) or the
    machine.
    """
    import openai

    class Client(openai.AsyncOpenAI):
        @property
        def default_headers(self) -> "dict[str, str | openai.Omit]":
            return {
                "Accept": "text/event-stream",
                "Content-Type": "application/json",
                "Authorization": f"Bearer {self.api_key}",
            }

    return Client


def conversation(settings: OpenAiSettings, messages: list[Entry]) -> "list[ChatCompletionMessageParam]":
    """Returns the system prompt, and the last whole messages that fit the window; always the very last.

    `messages` begins with the oldest.
    """
    shown: list[ChatCompletionMessageParam] = []
    left = settings.history_characters
    for message in map(message_of, reversed(messages)):
        left -= len(message.content)
        if shown and left < 0:
            break
        shown.append(
            {"role": "assistant", "content": message.content}
            if isinstance(message, AgentMessage)
            else {"role": "user", "content": message.content}
        )
    if settings.system_prompt:
        shown.append({"role": "system", "content": settings.system_prompt})
    return shown[::-1]


def _sampling(settings: OpenAiSettings) -> dict[str, Any]:
    named: Iterable[str] = ("temperature", "top_p", "max_tokens")
    return {name: value for name in named if (value := getattr(settings, name)) is not None}


async def _read(response: httpx2.Response, emit: Emit) -> str:
    """Returns the text of a streamed completion. Raises NoReplyError, and the errors of the connection."""
    pieces: list[str] = []
    finished = False
    try:
        async with asyncio.timeout(None) as rest:
            async for event in read_events(response):
                if event.data.startswith("[DONE]"):
                    # Some endpoints say nothing else at the end.
                    finished = finished or bool(pieces)
                    break
                text, is_last = _piece(event)
                if text:
                    emit(text)
                    pieces.append(text)
                if is_last and not finished:
                    finished = True
                    rest.reschedule(asyncio.get_running_loop().time() + END_SECONDS)
    except (httpx2.TransportError, TimeoutError):
        # A completion that has ended is whole, whatever becomes of its connection.
        if not finished:
            raise
    if not finished:
        raise NoReplyError("the agent's answer broke off", final=False)
    return "".join(pieces)


def _piece(event: httpx2.ServerSentEvent) -> tuple[str, bool]:
    """The text of a piece, which may be empty, and whether it ends the completion. Raises NoReplyError."""
    try:
        piece = _have(dict, read_json(event.data) if event.data.strip() else None)
        choice = _have(dict, next(iter(_have(list, piece.get("choices"))), None))
        text = _have(str, _have(dict, choice.get("delta")).get("content"))
    except ValueError as error:
        if event.event not in ("message", "error"):
            # A ping, or the like.
            return "", False
        raise NoReplyError(_NO_COMPLETION, final=False, detail=event.data) from error
    if event.event == "error" or piece.get("object") == "error" or piece.get("error"):
        words = read_error_text(piece.get("error") or piece, event.data)
        raise NoReplyError(_NO_COMPLETION, final=False, detail=words)
    return text, bool(choice.get("finish_reason"))


def _have(kind: type[_Kind], value: object) -> _Kind:
    """The value where it is of this kind; an empty one where it is null or empty. Else raises ValueError."""
    if isinstance(value, kind):
        return value
    if value:
        raise ValueError(f"holds {type(value).__name__} where {kind.__name__} should be")
    return kind()


def _unreachable(error: BaseException) -> NoReplyError:
    """Makes a NoReplyError of a failed connection, whose cause the library wraps."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, AddressRefusedError):
            return NoReplyError(f"the agent's host {found}", final=True)
        if isinstance(found, ResponseRefusedError):
            return NoReplyError(str(found), final=True)
        if isinstance(found, httpx2.TransportError):
            reason = f"the agent cannot be reached: {type(found).__name__}"
            return NoReplyError(reason, final=False, detail=describe_cause(found))
        found = found.__cause__
    return NoReplyError("the agent cannot be reached", final=False, detail=describe_cause(error))


def _no_key(error: SecretError) -> AgentUnavailableError:
    return AgentUnavailableError("the agent's API key cannot be read", detail=f"openai.api_key {error}")


def _settings(agent: Agent) -> OpenAiSettings:
    assert isinstance(agent.settings, OpenAiSettings)
    return agent.settings
