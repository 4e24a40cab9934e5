"""The kind `openai`: any endpoint that speaks the chat completions of OpenAI, asked by the official library, streamed."""

import importlib.util
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx2

from server.agents.http import AddressRefusedError, Hosts, ResponseRefusedError, retry_after_s
from server.agents.kinds import Emit, NoReplyError, Work
from server.agents.secrets import SecretError, Secrets
from server.clock import Clock
from server.domain.agents import Agent, OpenAiSettings
from server.domain.errors import InvalidFieldError
from server.domain.events import Entry
from server.domain.messages import Draft, Reply

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

NO_KEY = "none"
"""What is sent where the endpoint wants no key: the library insists on one."""


class OpenAi:
    """Asks chat completions endpoints."""

    def __init__(self, client: httpx2.AsyncClient, hosts: Hosts, secrets: Secrets, clock: Clock) -> None:
        self._client = client
        self._hosts = hosts
        self._secrets = secrets
        self._clock = clock

    def check(self, agent: Agent) -> None:
        """Refuses an address where no agent may be, a key that cannot be read, and any agent while the library is not there."""
        settings = _settings(agent)
        if importlib.util.find_spec("openai") is None:
            raise InvalidFieldError("kind", agent.kind, "needs the package openai: pip install '.[openai]' in the repository")
        try:
            self._hosts.check(urlsplit(settings.base_url).hostname or "")
        except AddressRefusedError as error:
            raise InvalidFieldError("openai.base_url", settings.base_url, str(error)) from error
        try:
            self._key(settings)
        except SecretError as error:
            raise InvalidFieldError("openai.api_key", settings.api_key, str(error)) from error

    @asynccontextmanager
    async def slot(self, agent: Agent) -> AsyncIterator["OpenAi"]:
        """There is always time: the dispatcher bounds how many are asked at once."""
        yield self

    async def reply(self, work: Work, emit: Emit) -> Reply:
        """Asks for a completion of the conversation. A 429, a 5xx and a connection that fails are worth another attempt."""
        # Here, because it takes half a second and most services do without.
        import openai

        settings = _settings(work.agent)
        history = await work.history(settings.history_messages - 1)
        try:
            endpoint = openai.AsyncOpenAI(
                base_url=settings.base_url, api_key=self._key(settings), http_client=self._client, max_retries=0, timeout=None
            )
            stream = await endpoint.chat.completions.create(
                model=settings.model, messages=conversation(settings, [*history, work.entry]), stream=True, **_sampling(settings)
            )
            async with stream:
                text = await _read(aiter(stream), emit)
        except SecretError as error:
            raise NoReplyError("the agent's API key cannot be read", final=True) from error
        except openai.APIStatusError as error:
            status = error.status_code
            final, rest_s = status != 429 and status < 500, retry_after_s(error.response.headers, self._clock.now_ms())
            raise NoReplyError(f"the agent answered with status {status}", final=final, retry_after_s=rest_s) from error
        except (openai.APIConnectionError, httpx2.TransportError) as error:
            raise _unreachable(error) from error
        except openai.OpenAIError as error:
            # An error that the endpoint reported in the middle of its stream, or an answer that the library cannot read.
            raise NoReplyError("the agent's answer is no completion", final=False) from error
        return Reply(Draft(text))

    def _key(self, settings: OpenAiSettings) -> str:
        return self._secrets.read(settings.api_key) if settings.api_key else NO_KEY


def conversation(settings: OpenAiSettings, messages: list[Entry]) -> "list[ChatCompletionMessageParam]":
    """The system prompt, and of the messages (the oldest first) the last that fit the window: whole ones, and the very last in any case."""
    shown: list[ChatCompletionMessageParam] = []
    left = settings.history_characters
    for message in (entry.message for entry in reversed(messages)):
        assert message is not None
        left -= len(message.content)
        if shown and left < 0:
            break
        shown.append(
            {"role": "assistant", "content": message.content} if message.is_agent else {"role": "user", "content": message.content}
        )
    if settings.system_prompt:
        shown.append({"role": "system", "content": settings.system_prompt})
    return shown[::-1]


def _sampling(settings: OpenAiSettings) -> dict[str, Any]:
    named: Iterable[str] = ("temperature", "top_p", "max_tokens")
    return {name: value for name in named if (value := getattr(settings, name)) is not None}


async def _read(parts: "AsyncIterator[ChatCompletionChunk]", emit: Emit) -> str:
    """The text of a streamed completion. Raises NoReplyError, and what the library raises."""
    pieces: list[str] = []
    finished = False
    while True:
        try:
            part = await anext(parts, None)
            choices = part.choices[:1] if part is not None else []
            texts = [choice.delta.content for choice in choices if choice.delta.content is not None]
            finished = finished or any(choice.finish_reason for choice in choices)
            if not all(isinstance(text, str) for text in texts):
                raise TypeError("a text that is none")
        except (ValueError, TypeError, AttributeError) as error:
            # The library builds its answers without checking them.
            raise NoReplyError("the agent's answer is no completion", final=False) from error
        if part is None:
            break
        for text in texts:
            emit(text)
            pieces.append(text)
    if not finished:
        raise NoReplyError("the agent's answer broke off", final=False)
    return "".join(pieces)


def _unreachable(error: BaseException) -> NoReplyError:
    """What a connection that failed means: the library wraps the cause up."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, AddressRefusedError):
            return NoReplyError(f"the agent's host {cause}", final=True)
        if isinstance(cause, ResponseRefusedError):
            return NoReplyError(str(cause), final=True)
        if isinstance(cause, httpx2.TransportError):
            return NoReplyError(f"the agent cannot be reached: {type(cause).__name__}", final=False)
        cause = cause.__cause__
    return NoReplyError("the agent cannot be reached", final=False)


def _settings(agent: Agent) -> OpenAiSettings:
    assert isinstance(agent.settings, OpenAiSettings)
    return agent.settings
