"""Where the keys of JSON web tokens come from: a file, or an https URL."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import httpx2
import structlog

from server.access.errors import AccessError
from server.access.files import WatchedFile
from server.access.jwt_keys import NO_KEYS, JwtKey, KeySet, read_key_set
from server.domain.errors import UnavailableError

VARIABLE: Final = "JWT_KEYS"
KEYS_FORM: Final = "a file or an https URL"
LEAST_PAUSE_SECONDS: Final = 60.0
"""A URL is asked at most once in this time, however many tokens name keys that are not there."""
MAX_AGE_SECONDS: Final = 600.0
"""After which time a URL is asked again, so that a key that was taken back goes."""
TIMEOUT_SECONDS: Final = 5.0
MAX_BODY_BYTES: Final = 1024 * 1024

log = structlog.get_logger()


class KeySource(Protocol):
    """Keys that may change."""

    @property
    def keys(self) -> KeySet:
        """The keys as they are known now."""

    @property
    def trouble(self) -> str:
        """Why they could not be had again when they were asked for last; empty where they could."""

    async def find(self, kid: str | None) -> JwtKey | None:
        """The key of a token. May ask for it, but waits only where it is not known.

        Raises UnavailableError where no keys are known at all.
        """

    def reload_if_changed(self) -> None:
        """Called each second, in a thread."""

    async def close(self) -> None:
        """Lets go of what is open."""


def open_source(where: str, monotonic: Callable[[], float]) -> KeySource:
    """The keys of JWT_KEYS: a path or an https URL. Raises AccessError."""
    if "://" in where:
        if not _is_https(where):
            raise AccessError(f"{VARIABLE} is wrong: it must be {KEYS_FORM}")
        return JwksUrl(where, monotonic)
    return JwksFile(Path(where))


class JwksFile:
    """Keys in a file, which is read again when it changes."""

    def __init__(self, path: Path) -> None:
        """Reads the file. Raises AccessError."""
        self._file = WatchedFile(
            VARIABLE,
            path,
            lambda content: read_key_set(content, is_file=True),
            is_secret=lambda keys: keys.has_secrets,
        )

    @property
    def keys(self) -> KeySet:
        return self._file.value

    @property
    def trouble(self) -> str:
        return self._file.trouble

    async def find(self, kid: str | None) -> JwtKey | None:
        return self.keys.find(kid)

    def reload_if_changed(self) -> None:
        self._file.reload_if_changed()

    async def close(self) -> None:
        """Nothing is open."""


class JwksUrl:
    """Keys behind a URL. It is first asked for the first token, so that a start does not need it."""

    def __init__(
        self,
        url: str,
        monotonic: Callable[[], float],
        make_client: Callable[[], httpx2.AsyncClient] | None = None,
    ) -> None:
        """`monotonic` tells monotonic seconds; `make_client` is called in a thread."""
        self.keys: KeySet = NO_KEYS
        self.trouble = ""
        self._url = url
        self._monotonic = monotonic
        self._make_client = make_client or _make_client
        self._client: httpx2.AsyncClient | None = None
        self._asked_s: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def find(self, kid: str | None) -> JwtKey | None:
        found = self.keys.find(kid)
        if found is None:
            self._ask_after(LEAST_PAUSE_SECONDS)
            if self._task is not None:
                await asyncio.shield(self._task)
            found = self.keys.find(kid)
            if found is None and self.keys is NO_KEYS:
                raise UnavailableError("The keys of the identity provider cannot be had")
        return found

    def reload_if_changed(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ask_after, MAX_AGE_SECONDS)

    async def close(self) -> None:
        self._loop = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    def _ask_after(self, pause_s: float) -> None:
        """Begins to ask, unless that is under way or was done less than `pause_s` ago."""
        now_s = self._monotonic()
        if self._task is None and (self._asked_s is None or now_s - self._asked_s >= pause_s):
            self._asked_s = now_s
            self._loop = asyncio.get_running_loop()
            self._task = self._loop.create_task(self._ask())

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                keys = read_key_set(await self._fetch(), is_file=False)
        except (httpx2.HTTPError, OSError, ValueError) as error:
            # TimeoutError is an OSError. The text of none has the URL's query.
            host = urlsplit(self._url).hostname
            self.trouble = f"JWT_KEYS cannot be fetched from {host}: {type(error).__name__}: {error}"
            log.warning(
                "the keys of JWT_KEYS cannot be fetched, those known stay",
                host=host,
                cause=f"{type(error).__name__}: {error}",
                known=len(self.keys.by_kid),
            )
        else:
            self.trouble = ""
            if keys.proofs != self.keys.proofs or keys.by_kid.keys() != self.keys.by_kid.keys():
                self.keys = keys
        finally:
            self._task = None

    async def _fetch(self) -> bytes:
        if self._client is None:
            # Reading all certificates takes a while.
            self._client = await asyncio.to_thread(self._make_client)
        async with self._client.stream("GET", self._url) as response:
            if response.status_code != httpx2.codes.OK:
                raise ValueError(f"the status is {response.status_code}")
            body = bytearray()
            async for part in response.aiter_bytes():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    raise ValueError(f"the answer has more than {MAX_BODY_BYTES} bytes")
            return bytes(body)


def _is_https(where: str) -> bool:
    try:
        url = httpx2.URL(where)
        return url.scheme == "https" and bool(url.host) and "%" not in url.host
    except (httpx2.InvalidURL, ValueError):
        return False


def _make_client() -> httpx2.AsyncClient:
    """A client that follows no redirect. It trusts the system's certificates, or those of SSL_CERT_FILE."""
    return httpx2.AsyncClient(
        timeout=TIMEOUT_SECONDS,
        follow_redirects=False,
        headers={
            "Accept": "application/jwk-set+json, application/json",
            # What is packed would be bounded only once it is unpacked.
            "Accept-Encoding": "identity",
            "User-Agent": "eliza-sessions",
        },
    )
