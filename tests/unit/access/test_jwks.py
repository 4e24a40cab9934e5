"""Where the keys of JSON web tokens come from: a file that changes, a URL that may be away."""

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx2
import pytest
from structlog.testing import capture_logs

from server.access import jwks as module
from server.access.errors import AccessError
from server.access.jwks import JwksFile, JwksUrl, open_source
from server.access.jwt_keys import JwtRules
from server.access.jwt_tokens import JwtTokens
from server.access.keys import digest_of
from server.domain.access import Principal
from server.domain.errors import CredentialExpiredError, UnauthenticatedError, UnavailableError
from tests.support.waiting import eventually
from tests.unit.access.support import AUDIENCE, ISSUER, NOW_MS, Clock, jwk, jwks, token, write

RULES = JwtRules(ISSUER, AUDIENCE)
URL = "https://login.example.com/keys?secret=hunter2"

Answer = Callable[[httpx2.Request], httpx2.Response]


class Provider:
    """An identity provider: counts how often it is asked, and answers as a test says."""

    def __init__(self, *kids: str) -> None:
        self.asked = 0
        self.answer: Answer = lambda _: httpx2.Response(200, text=self.keys)
        self.show(*kids)

    def show(self, *kids: str) -> None:
        """Has these keys from now on, all of one RSA key."""
        self.keys = jwks(*(jwk("RSA", kid) for kid in kids))

    def client(self) -> httpx2.AsyncClient:
        async def handle(request: httpx2.Request) -> httpx2.Response:
            self.asked += 1
            return self.answer(request)

        return httpx2.AsyncClient(transport=httpx2.MockTransport(handle))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def source(provider: Provider, clock: Clock) -> JwksUrl:
    return JwksUrl(URL, clock.monotonic, provider.client)


async def identify(tokens: JwtTokens, text: str) -> Principal:
    return tokens.find_known(digest_of(text)) or await tokens.identify(text, digest_of(text))


class TestUrl:
    async def test_it_is_asked_for_the_first_token_and_not_again(self, clock: Clock) -> None:
        provider = Provider("one")
        keys = source(provider, clock)
        assert provider.asked == 0
        assert await keys.find("one") is not None
        assert await keys.find("one") is not None
        assert provider.asked == 1
        await keys.close()

    async def test_unknown_kids_ask_once_a_minute(self, clock: Clock) -> None:
        provider = Provider("one")
        keys = source(provider, clock)
        assert await keys.find("two") is None
        provider.show("one", "two")
        clock.ms += 59_999
        assert [await keys.find(kid) for kid in ("two", "three", "two")] == [None] * 3
        assert provider.asked == 1
        clock.ms += 1
        found = await asyncio.gather(*(keys.find("two") for _ in range(20)))
        assert all(found)
        assert provider.asked == 2
        await keys.close()

    async def test_after_ten_minutes_it_is_asked_again_and_a_key_taken_back_goes(self, clock: Clock) -> None:
        provider = Provider("one", "two")
        keys = source(provider, clock)
        before = await keys.find("one")
        assert before is not None
        provider.keys = jwks(jwk("EC", "two"))
        clock.ms += 599_999
        await asyncio.to_thread(keys.reload_if_changed)
        await asyncio.sleep(0)
        assert provider.asked == 1
        clock.ms += 1
        await asyncio.to_thread(keys.reload_if_changed)
        await eventually(lambda: list(keys.keys.by_kid) == ["two"])
        assert before.proof not in keys.keys.proofs
        await keys.close()

    async def test_nobody_is_asked_before_the_first_token(self, clock: Clock) -> None:
        provider = Provider("one")
        keys = source(provider, clock)
        clock.ms += 10_000_000
        await asyncio.to_thread(keys.reload_if_changed)
        await asyncio.sleep(0)
        assert provider.asked == 0

    @pytest.mark.parametrize(
        "answer",
        [
            lambda _: httpx2.Response(500),
            lambda _: httpx2.Response(404, text=jwks(jwk("EC", "evil"))),
            lambda _: httpx2.Response(302, headers={"location": "https://evil.example.com/"}),
            lambda _: httpx2.Response(200, text="<html>"),
            lambda _: httpx2.Response(200, text='{"keys": []}'),
            lambda _: httpx2.Response(200, content=b" " * (1024 * 1024 + 1)),
            lambda request: (_ for _ in ()).throw(httpx2.ConnectError("refused", request=request)),
            lambda request: (_ for _ in ()).throw(OSError("no descriptors")),
        ],
    )
    async def test_a_failure_keeps_the_last_keys_and_logs_a_line(self, clock: Clock, answer: Answer) -> None:
        provider = Provider("one")
        keys = source(provider, clock)
        known = await keys.find("one")
        provider.answer = answer
        clock.ms += 60_000
        with capture_logs() as lines:
            assert await keys.find("two") is None
        assert provider.asked == 2
        assert await keys.find("one") is known
        assert [line["log_level"] for line in lines] == ["warning"]
        assert "hunter2" not in str(lines)
        await keys.close()

    async def test_without_any_keys_it_is_not_the_clients_fault(self, clock: Clock) -> None:
        provider = Provider("one")
        provider.answer = lambda _: httpx2.Response(503)
        keys = source(provider, clock)
        for _ in range(3):
            with pytest.raises(UnavailableError):
                await keys.find("one")
        assert provider.asked == 1
        await keys.close()

    async def test_a_provider_that_hangs_is_given_up(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.05)

        async def hang(_: httpx2.Request) -> httpx2.Response:
            await asyncio.Event().wait()
            raise AssertionError

        keys = JwksUrl(URL, clock.monotonic, lambda: httpx2.AsyncClient(transport=httpx2.MockTransport(hang)))
        with pytest.raises(UnavailableError):
            await keys.find("one")
        await keys.close()

    async def test_a_caller_that_leaves_does_not_end_the_question(self, clock: Clock) -> None:
        provider = Provider("one")
        keys = source(provider, clock)
        leaving = asyncio.create_task(keys.find("one"))
        await asyncio.sleep(0)
        leaving.cancel()
        assert await keys.find("one") is not None
        assert provider.asked == 1
        await keys.close()

    async def test_a_close_ends_the_question(self, clock: Clock) -> None:
        keys = JwksUrl(URL, clock.monotonic, Provider("one").client)
        asking = asyncio.create_task(keys.find("one"))
        await asyncio.sleep(0)
        await keys.close()
        with pytest.raises((asyncio.CancelledError, UnavailableError)):
            await asking


CERTIFICATES = Path(__file__).parents[2] / "service" / "tls"


class _Handler(BaseHTTPRequestHandler):
    """Answers with the keys of the provider."""

    def do_GET(self) -> None:
        body = jwks(jwk("RSA", "one")).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def https_port() -> Iterator[int]:
    """The port of a provider on localhost, whose certificate only its own file vouches for."""
    with HTTPServer(("127.0.0.1", 0), _Handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATES / "certificate.pem", CERTIFICATES / "key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


class TestCertificates:
    async def test_a_private_authority_is_named_by_ssl_cert_file(
        self, https_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "certificate.pem"))
        keys = JwksUrl(f"https://localhost:{https_port}/keys", Clock().monotonic)
        assert await keys.find("one") is not None
        await keys.close()

    async def test_a_certificate_that_nobody_vouches_for_is_refused(self, https_port: int) -> None:
        keys = JwksUrl(f"https://localhost:{https_port}/keys", Clock().monotonic)
        with capture_logs() as lines, pytest.raises(UnavailableError):
            await keys.find("one")
        assert "CERTIFICATE_VERIFY_FAILED" in lines[0]["cause"]
        await keys.close()


class TestFile:
    async def test_it_is_read_again_when_it_changes(self, tmp_path: Path) -> None:
        path = write(tmp_path / "jwks.json", jwks(jwk("RSA", "one")))
        keys = JwksFile(path)
        assert await keys.find("two") is None
        write(path, jwks(jwk("EC", "two")))
        keys.reload_if_changed()
        assert await keys.find("one") is None
        assert await keys.find("two") is not None

    def test_public_keys_may_be_read_by_others(self, tmp_path: Path) -> None:
        with capture_logs() as lines:
            JwksFile(write(tmp_path / "jwks.json", jwks(jwk("RSA", "one")), 0o644))
            assert lines == []
            secret = {"kty": "oct", "alg": "HS256", "k": "A" * 43, "kid": "s"}
            JwksFile(write(tmp_path / "jwks.json", jwks(secret), 0o644))
        assert len(lines) == 1

    def test_a_wrong_file_stops_the_start(self, tmp_path: Path) -> None:
        path = write(tmp_path / "jwks.json", jwks(jwk("RSA", "one", alg="HS256")))
        with pytest.raises(AccessError, match=r"^JWT_KEYS /.*: key 1: .* do not go together"):
            open_source(str(path), Clock().monotonic)

    @pytest.mark.parametrize(
        "url", ["http://login.example.com/keys", "ftp://x/y", "https://[/", "https://x:y/"]
    )
    def test_only_https_is_a_url(self, url: str) -> None:
        with pytest.raises(AccessError, match="JWT_KEYS is wrong: it must be a file or an https URL"):
            open_source(url, Clock().monotonic)


class TestRemembered:
    def tokens(self, tmp_path: Path, clock: Clock, size: int = 100) -> JwtTokens:
        self.path = write(tmp_path / "jwks.json", jwks(jwk("RSA", "one")))
        return JwtTokens(JwksFile(self.path), RULES, clock.now_ms, size)

    async def test_a_token_is_checked_once(
        self, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tokens = self.tokens(tmp_path, clock)
        first = await identify(tokens, token())
        monkeypatch.setattr("server.access.jwt_tokens.verify", lambda *_: pytest.fail("it was checked again"))
        assert await identify(tokens, token()) is first

    async def test_it_expires_all_the_same(self, tmp_path: Path, clock: Clock) -> None:
        tokens = self.tokens(tmp_path, clock)
        await identify(tokens, token(exp=NOW_MS // 1000 + 1))
        clock.ms += 1000
        for _ in range(2):
            with pytest.raises(CredentialExpiredError):
                await identify(tokens, token(exp=NOW_MS // 1000 + 1))
        assert len(tokens) == 0

    async def test_all_are_forgotten_when_the_keys_change(self, tmp_path: Path, clock: Clock) -> None:
        tokens = self.tokens(tmp_path, clock)
        found = await identify(tokens, token())
        assert tokens.has_key(found.proof)
        write(self.path, jwks(jwk("EC", "one")))
        tokens.source.reload_if_changed()
        assert not tokens.has_key(found.proof)
        with pytest.raises(UnauthenticatedError):
            await identify(tokens, token())

    async def test_a_bounded_number_is_remembered(self, tmp_path: Path, clock: Clock) -> None:
        tokens = self.tokens(tmp_path, clock, size=3)
        for number in range(5):
            await identify(tokens, token(sub=f"user {number}"))
        assert len(tokens) == 3

    async def test_wrong_tokens_are_not_remembered(self, tmp_path: Path, clock: Clock) -> None:
        tokens = self.tokens(tmp_path, clock)
        for wrong in (token(aud="other"), token(kid="two"), token(exp=1)):
            with pytest.raises((UnauthenticatedError, CredentialExpiredError)):
                await identify(tokens, wrong)
        assert len(tokens) == 0
