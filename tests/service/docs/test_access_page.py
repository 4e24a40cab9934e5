"""The blocks and the tables of docs/access.md that have no larger test, and what other pages say of keys."""

import json
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests

from eliza.sessions.v1 import agent_pb2, agent_service_pb2
from server.access.keys import digest_of, read_keys
from server.access.session_tokens import read_signing_keys
from server.clock import SystemClock
from server.domain.access import Role
from server.settings import Settings
from tests.service.docs.pages import DOCS, example
from tests.support.clients import invoke
from tests.support.realtime.programs import Facade
from tests.support.service import ECHO, USER, Serve, Start, environment
from tests.support.waiting import until

ACCESS = (DOCS / "access.md").read_text()
ONE, OTHER = "203.0.113.7", "203.0.113.8"
SECONDS = 30
AGENT = "aaaaaaaa-0000-4000-8000-0000000000a9"


class Protected(NamedTuple):
    """A protected service. `directory` has its keys, in files of their names."""

    service: Serve
    directory: Path

    def key(self, name: str) -> str:
        return (self.directory / f"{name}.key").read_text().strip()


def add_key(directory: Path, name: str, *options: str) -> None:
    """Makes a key, and writes it into the file of its name."""
    made = invoke("keys", "add", "--id", name, "--file", str(directory / "keys.toml"), *options)
    assert made.status == 0, made.errors
    (directory / f"{name}.key").write_text(made.out)


@pytest.fixture
def protected(start: Start, tmp_path: Path) -> Protected:
    """Its keys are there from the start."""
    directory = tmp_path / "keys"
    directory.mkdir()
    add_key(directory, "operator", "--role", "admin")
    add_key(directory, "shop", "--role", "service")
    add_key(directory, "worker", "--role", "agent", "--agent", AGENT)
    return Protected(start(KEYS_FILE=str(directory / "keys.toml")), directory)


def bash(script: str, directory: Path, **variables: str) -> str:
    """What a script prints that succeeds."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=directory,
        env=environment(PATH=path, **variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_roles_of_the_page_are_those_of_the_code() -> None:
    table = ACCESS.partition("## Roles")[2].partition("\n\n")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [
        str(role) for role in Role if role not in (Role.NOBODY, Role.OPEN)
    ]


def test_the_settings_of_the_page_exist() -> None:
    named = set(re.findall(r"`([A-Z][A-Z_]{5,})(?:=[^`]*)?`", ACCESS))
    of_clients = {"SERVER_KEY_FILE", "ELIZA_API_KEY", "UNAUTHENTICATED"}
    errors = set(re.findall(r"\d{3} `([A-Z_]+)`", ACCESS)) | {"CREDENTIAL_EXPIRED"}
    assert named - errors - of_clients <= {name.upper() for name in Settings.model_fields}
    assert len(named) > 20


def test_the_keys_file_is_taken() -> None:
    digest = digest_of("es_shop_secret")
    text = example("keys.toml").replace("…", digest.hex())
    (key,) = read_keys(text, SystemClock().now_ms())
    assert (key.id, key.digest, key.role, key.tenant, key.share) == ("shop", digest, "service", "acme", 0.5)


def test_a_user_id_is_made_of_any_id() -> None:
    names: dict[str, Any] = {"uuid": uuid, "my_id": "ada@example.com"}
    exec(example("user-id.py"), names)
    assert str(uuid.UUID(names["user_id"])) == names["user_id"]
    again = names["user_id"]
    exec(example("user-id.py"), names)
    assert names["user_id"] == again


def test_the_keys_of_tokens_are_taken(tmp_path: Path) -> None:
    script = example("token-keys")
    assert "/etc/eliza-sessions" in script
    bash(script.replace("/etc/eliza-sessions", str(tmp_path)), tmp_path)
    (key,) = read_signing_keys((tmp_path / "token-keys").read_bytes())
    assert len(key.secret) == 32


def test_a_token_is_made_as_printed(protected: Protected) -> None:
    service, shop = protected.service, protected.key("shop")
    body = {"agentId": ECHO, "userId": USER}
    made = requests.post(service.url, json=body, headers={"X-API-KEY": shop}, timeout=SECONDS).json()
    script = 'curl() { command curl -sS --fail-with-body "$@"; }\n' + example("token")
    token = json.loads(bash(script, protected.directory, API=service.url, ID=made["sessionId"]))
    shown = json.loads(re.search(r"^# (\{.*\})$", example("token"), re.MULTILINE)[1])  # type: ignore[index]
    assert token.keys() == shown.keys()
    assert (token["sessionId"], token["verbs"]) == (made["sessionId"], shown["verbs"])
    assert token["accessToken"].startswith("est_")
    headers = {"Authorization": f"Bearer {token['accessToken']}"}
    assert requests.get(f"{service.url}/{made['sessionId']}", headers=headers, timeout=SECONDS).ok


def test_a_facade_with_a_key_is_believed_about_addresses(protected: Protected, tmp_path: Path) -> None:
    service, directory = protected.service, protected.directory
    keys = str(directory / "keys.toml")
    bash(example("facade-key"), directory, KEYS_FILE=keys)
    settings = {"FACADE_KEY_FILE": str(directory / "facade.key"), "TRUSTED_PROXIES": "127.0.0.1"}
    assert "FACADE_KEY_FILE" in (DOCS / "operations.md").read_text()
    with Facade(service.grpc, "127.0.0.1:0", tmp_path / "facade", **settings) as facade:

        def guess(address: str) -> int:
            headers = {"X-API-KEY": "es_shop_" + "x" * 43, "X-Forwarded-For": address}
            return requests.get(facade.url, headers=headers, timeout=SECONDS).status_code

        # Until the server has read its keys again, the facade is as good as none: 503.
        status = until(lambda: status if (status := guess(OTHER)) != 503 else 0, "the server to know the key")
        assert status == 401
        assert [guess(ONE) for _ in range(10)] == [401] * 10
        assert (guess(ONE), guess(OTHER)) == (429, 401)


def test_a_worker_with_a_key_of_its_agent_replies(protected: Protected, tmp_path: Path) -> None:
    service = protected.service
    operator = (("x-api-key", protected.key("operator")),)
    agent = agent_pb2.Agent(agent_id=AGENT, name="keyed", kind=agent_pb2.AGENT_KIND_STREAM)
    request = agent_service_pb2.CreateAgentRequest(agent=agent)
    service.agents.CreateAgent(request, metadata=operator, timeout=SECONDS)
    code, plain = example("worker.py"), 'run(reply, address="127.0.0.1:50051")'
    keyed = re.search(r"`(run\(reply, key=)…\)`", (DOCS / "agents.md").read_text())
    assert keyed
    assert plain in code
    code = code.replace(plain, f"{keyed[1]}key, address={service.grpc!r})")
    (tmp_path / "worker.py").write_text(f"key = {protected.key('worker')!r}\n{code}")
    shop = {"X-API-KEY": protected.key("shop")}
    body = {"agentId": AGENT, "userId": USER}
    made = requests.post(service.url, json=body, headers=shop, timeout=SECONDS).json()
    with subprocess.Popen([sys.executable, "worker.py", AGENT], cwd=tmp_path) as worker:
        try:
            answer = requests.post(
                f"{service.url}/{made['sessionId']}/messages",
                json={"content": "Hello!", "transport": "http"},
                headers=shop,
                timeout=60,
            ).json()
        finally:
            worker.kill()
    assert answer["agentResponse"]["text"] == "After 0 messages you say: Hello!"
