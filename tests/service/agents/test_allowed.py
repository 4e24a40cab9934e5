"""What a stranger who registers agents gets: no secret that is not theirs, no port of the service, and
nothing stands still meanwhile.
"""

import asyncio
import base64
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from eliza.sessions.v1 import agent_pb2
from eliza.sessions.v1 import agent_service_pb2 as pb
from server.agents import secrets
from server.clock import SystemClock
from server.domain.agents import WebhookSettings
from server.rpc.agent_service import AgentService
from server.rpc.call import Call
from tests.service.agents.asking import asking
from tests.service.agents.openai_server import Endpoint, completion
from tests.service.agents.webhook_server import Server, answer
from tests.support.service import Serve
from tests.support.waiting import PATIENCE_SECONDS, until

KEY = base64.b64encode(b"a key of sixteen bytes and more").decode()
API_KEY = "sk-of-the-service"
ELSEWHERE = "which AGENT_SECRETS does not allow"
AMBIENT = {
    "OPENAI_ORG_ID": "org-of-the-service",
    "OPENAI_PROJECT_ID": "proj-of-the-service",
    "OPENAI_ADMIN_KEY": "sk-admin-of-the-service",
    "OPENAI_WEBHOOK_SECRET": "whsec-of-the-service",
    "OPENAI_BASE_URL": "http://127.0.0.1:1/of-the-service",
    "OPENAI_CUSTOM_HEADERS": "X-Of-The-Service: 1\nAuthorization: Bearer sk-of-the-service\nUser-Agent: "
    "of-the-service",
}
"""What the library would send to wherever an agent is."""


class Running(NamedTuple):
    """A service whose agents may have secrets in `vault`."""

    service: Serve
    vault: Path

    def webhook(
        self, url: str = "https://agent.example/hook", secret: str = "env:AGENT_SECRET_HOOK"
    ) -> agent_pb2.Agent:
        settings = agent_pb2.WebhookSettings(url=url, secret=secret)
        return self.create(agent_pb2.Agent(name="hook", kind=agent_pb2.AGENT_KIND_WEBHOOK, webhook=settings))

    def openai(self, base_url: str, api_key: str = "") -> agent_pb2.Agent:
        settings = agent_pb2.OpenAiSettings(base_url=base_url, model="m", api_key=api_key)
        return self.create(agent_pb2.Agent(name="gpt", kind=agent_pb2.AGENT_KIND_OPENAI, openai=settings))

    def create(self, agent: agent_pb2.Agent) -> agent_pb2.Agent:
        return self.service.agents.CreateAgent(pb.CreateAgentRequest(agent=agent), timeout=20).agent

    def refuses(self, register: Callable[..., Any], *arguments: Any, **named: str) -> str:
        """What is said where an agent is refused."""
        with pytest.raises(grpc.RpcError) as raised:
            register(*arguments, **named)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        return str(raised.value.details())

    def update(self, agent: agent_pb2.Agent, *paths: str) -> agent_pb2.Agent:
        request = pb.UpdateAgentRequest(agent=agent, update_mask={"paths": paths})
        return self.service.agents.UpdateAgent(request, timeout=20).agent

    def ask(self, agent_id: str) -> int:
        """Sends a message to an agent and waits for its reply; returns the status."""
        session_id = self.service.create(agentId=agent_id)["sessionId"]
        body = {"content": "hello", "transport": "http"}
        return self.service.http.post(
            f"{self.service.url}/{session_id}/messages", json=body, timeout=30
        ).status_code


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("allowed")
    vault = directory / "vault"
    vault.mkdir()
    (vault / "key").write_text(KEY)
    service = Serve(
        directory,
        AGENT_ALLOWED_HOSTS="127.0.0.1",
        AGENT_SECRETS=f"AGENT_SECRET_*,OPENAI_API_KEY@127.0.0.1,{vault}/*,file:{directory}/sent/*@*.example.com",
        AGENT_SECRET_HOOK=KEY,
        OPENAI_API_KEY=API_KEY,
        DELIVERY_ATTEMPTS="1",
        LOG_FORMAT="json",
        **AMBIENT,
    )
    try:
        yield Running(service, vault)
    finally:
        assert service.stop() == 0, service.log()


class TestSecrets:
    """Who may have which."""

    def test_a_key_goes_where_the_operator_said_and_nowhere_else(self, running: Running) -> None:
        with Endpoint(completion("hi")) as endpoint:
            agent = running.openai(endpoint.base_url, "env:OPENAI_API_KEY")
            assert running.ask(agent.agent_id) == 201
            assert endpoint.requests[0].headers["authorization"] == f"Bearer {API_KEY}"
        for base_url in (
            "https://agent.example/v1",
            "https://api.openai.com/v1",
            "https://127.0.0.1.example/v1",
        ):
            assert ELSEWHERE in running.refuses(running.openai, base_url, "env:OPENAI_API_KEY")

    def test_a_change_of_the_address_does_not_take_the_key_along(self, running: Running) -> None:
        agent = running.openai("http://127.0.0.1:1/v1", "env:OPENAI_API_KEY")
        agent.openai.base_url = "https://agent.example/v1"
        assert running.refuses(running.update, agent, "openai.base_url") == (
            "openai.api_key names OPENAI_API_KEY, which AGENT_SECRETS does not allow to be sent to "
            "agent.example port 443;"
            " add OPENAI_API_KEY@agent.example:443 to it"
        )

    @pytest.mark.parametrize(
        "name",
        ["env:AGENT_SECRET_HOOK", "env:AGENT_SECRET_ABSENT", "file:{vault}/key", "file:{vault}/absent"],
    )
    def test_a_secret_that_only_signs_is_not_sent(self, running: Running, name: str) -> None:
        reference = name.format(vault=running.vault)
        assert ELSEWHERE in running.refuses(running.openai, "http://127.0.0.1:1/v1", reference)

    def test_a_key_for_one_host_does_not_sign_for_another(self, running: Running) -> None:
        assert ELSEWHERE in running.refuses(running.webhook, secret="env:OPENAI_API_KEY")

    def test_a_key_is_not_sent_in_clear_but_to_a_host_of_the_operator(self, running: Running) -> None:
        sent = running.vault.parent / "sent"
        sent.mkdir(exist_ok=True)
        (sent / "key").write_text(API_KEY)
        assert "https only" in running.refuses(
            running.openai, "http://llm.example.com/v1", f"file:{sent}/key"
        )
        assert running.openai("https://llm.example.com/v1", f"file:{sent}/key").agent_id

    def test_a_wildcard_stays_in_its_directory(self, running: Running) -> None:
        (running.vault / "kubernetes.io").mkdir(exist_ok=True)
        (running.vault / "kubernetes.io" / "token").write_text(KEY)
        assert ELSEWHERE in running.refuses(
            running.webhook, secret=f"file:{running.vault}/kubernetes.io/token"
        )

    def test_a_link_leads_nowhere_else(self, running: Running) -> None:
        (running.vault.parent / "other").write_text(KEY)
        for name in ("other", "absent"):
            (running.vault / f"to-{name}").symlink_to(running.vault.parent / name)
        told = {
            running.refuses(running.webhook, secret=f"file:{running.vault}/to-{name}").replace(
                f"to-{name}", ""
            )
            for name in ("other", "absent")
        }
        assert len(told) == 1, "whether the file is there is told"
        assert ELSEWHERE in told.pop()

    def test_a_secret_of_a_kubernetes_volume_is_read_through_its_links(self, running: Running) -> None:
        """There each key is a link to a directory that is replaced as a whole."""
        (running.vault / "..2026_01_31").mkdir()
        (running.vault / "..2026_01_31" / "mounted").write_text(KEY)
        (running.vault / "..data").symlink_to("..2026_01_31")
        (running.vault / "mounted").symlink_to("..data/mounted")
        assert running.webhook(secret=f"file:{running.vault}/mounted").agent_id

    @pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["a FIFO", "a directory"])
    def test_what_is_no_file_is_refused_and_nobody_waits_for_it(
        self, running: Running, make: Callable[[Path], None]
    ) -> None:
        path = running.vault / uuid.uuid4().hex
        make(path)
        for _ in range(3):
            assert "no regular file" in running.refuses(running.webhook, secret=f"file:{path}")
        agent = running.webhook()
        agent.webhook.secret = f"file:{path}"
        assert "no regular file" in running.refuses(running.update, agent, "webhook.secret")
        assert running.service.create()["sessionId"]


def test_nothing_of_the_environment_goes_to_an_agent(running: Running) -> None:
    with Endpoint(completion("hi")) as endpoint:
        assert running.ask(running.openai(endpoint.base_url).agent_id) == 201
        (request,) = endpoint.requests
    ours = {
        "accept",
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "host",
        "user-agent",
    }
    assert set(request.headers) - ours <= {"x-stainless-retry-count"}
    assert (request.headers["authorization"], request.headers["user-agent"]) == (
        "Bearer none",
        "eliza-sessions",
    )
    assert "of-the-service" not in str(request)


def test_no_cookie_of_one_agent_goes_to_another(running: Running) -> None:
    cookie = answer({"content": "hi"}, headers={"Set-Cookie": "session=of-an-agent; Path=/"})
    with Server(cookie, cookie) as server:
        for _ in range(2):
            assert running.ask(running.webhook(server.url).agent_id) == 201
        assert [request.headers.get("cookie") for request in server.requests] == [None, None]


class TestHosts:
    """Which ports an agent may be on."""

    def test_an_agent_may_be_on_every_port_but_those_of_the_service(self, running: Running) -> None:
        service = running.service
        for address in (service.grpc, service.rest):
            for host in ("127.0.0.1", "2130706433", "127.1"):
                url = f"http://{host}:{address.rpartition(':')[2]}/"
                assert "AGENT_ALLOWED_HOSTS does not allow" in running.refuses(running.webhook, url)
        with Server(answer({"content": "hi"})) as server:
            assert running.ask(running.webhook(server.url).agent_id) == 201
        (line,) = [line for line in service.log().splitlines() if "opens all ports" in line]
        assert '"host":"127.0.0.1"' in line.replace(" ", "")

    def test_a_port_narrows(self, tmp_path: Path) -> None:
        with Server(answer({"content": "hi"})) as server, Server(answer({"content": "hi"})) as other:
            service = Serve(
                tmp_path, AGENT_ALLOWED_HOSTS=f"127.0.0.1:{server.port},[::1]:9", AGENT_SECRET_HOOK=KEY
            )
            narrow = Running(service, tmp_path)
            try:
                assert narrow.ask(narrow.webhook(server.url).agent_id) == 201
                for url in (
                    other.url,
                    f"http://[::1]:{server.port}/",
                    f"http://localhost:{server.port}/",
                    "http://127.0.0.1/",
                ):
                    assert "AGENT_ALLOWED_HOSTS does not allow" in narrow.refuses(narrow.webhook, url)
                assert narrow.webhook("http://[::1]:9/").agent_id
            finally:
                assert service.stop() == 0
            assert (len(server.requests), other.connections) == (1, 0)
            assert "opens all ports" not in service.log()


def test_after_an_upgrade_the_start_names_what_is_to_be_added_and_serves(tmp_path: Path) -> None:
    """As a store of the version before has it, where every secret could be sent."""
    before = Serve(
        tmp_path,
        AGENT_ALLOWED_HOSTS="127.0.0.1",
        AGENT_SECRETS=f"AGENT_SECRET_*,AGENT_SECRET_*@*,OPENAI_API_KEY@*,{tmp_path}/*/*",
        AGENT_SECRET_HOOK=KEY,
        AGENT_SECRET_KEY=API_KEY,
        OPENAI_API_KEY=API_KEY,
    )
    (tmp_path / "mounted").mkdir()
    (tmp_path / "mounted" / "key").write_text(KEY)
    old = Running(before, tmp_path)
    kept = [
        old.webhook(),
        old.openai("https://api.openai.com/v1", "env:OPENAI_API_KEY"),
        old.openai("https://llm.example/v1"),
    ]
    lost = {
        old.webhook("http://127.0.0.1:1/?token=hunter2").agent_id: "AGENT_ALLOWED_HOSTS",
        old.webhook(secret=f"file:{tmp_path}/mounted/key").agent_id: f"add file:{tmp_path}/mounted/key to it",
        old.openai(
            "https://llm.example/v1", "env:OPENAI_API_KEY"
        ).agent_id: "add OPENAI_API_KEY@llm.example:443 to it",
        old.openai(
            "https://llm.example:8443/v1", "env:AGENT_SECRET_KEY"
        ).agent_id: "add AGENT_SECRET_KEY@llm.example:8443 to it",
    }
    assert before.stop() == 0
    after = Serve(
        tmp_path, AGENT_SECRET_HOOK=KEY, AGENT_SECRET_KEY=API_KEY, OPENAI_API_KEY=API_KEY, LOG_FORMAT="json"
    )
    try:
        until(lambda: after.log().count("agent cannot be asked") >= len(lost), "the warnings")
        assert after.create()["sessionId"]
    finally:
        assert after.stop() == 0
    warnings = [line for line in after.log().splitlines() if "agent cannot be asked" in line]
    assert len(warnings) == len(lost)
    for agent_id, what in lost.items():
        (line,) = [line for line in warnings if agent_id in line]
        assert what in line
    assert not any(agent.agent_id in line for line in warnings for agent in kept)
    assert "hunter2" not in after.log()


async def test_a_secret_is_read_before_the_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is waited for, others write."""
    reads, goes_on = threading.Event(), threading.Event()

    def hang(name: str, patterns: tuple[str, ...]) -> str:
        reads.set()
        assert goes_on.wait(PATIENCE_SECONDS)
        return KEY

    monkeypatch.setenv("AGENT_SECRET_HOOK", KEY)
    async with asking(tmp_path) as here:
        service = AgentService(here.store, SystemClock(), here.connectors, here.dispatcher, 60)
        agent = agent_pb2.Agent(
            agent_id=await here.agent(WebhookSettings("https://agent.example/", "env:AGENT_SECRET_HOOK"))
        )
        monkeypatch.setattr(secrets, "_read_file", hang)
        agent.webhook.secret = f"file:{tmp_path}/key"
        update = asyncio.create_task(service.UpdateAgent(pb.UpdateAgentRequest(agent=agent), Call(None)))
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert await asyncio.to_thread(reads.wait, PATIENCE_SECONDS)
                await here.session(WebhookSettings("https://agent.example/", "env:AGENT_SECRET_HOOK"))
            assert not update.done()
        finally:
            goes_on.set()
        assert (await update).agent.webhook.secret == agent.webhook.secret
