"""docs/access.md, *Putting it on a network*: its blocks, run in order, behind nginx with TLS."""

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
import requests
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_websocket

from eliza.sessions.errors import error_info
from eliza.sessions.v1 import session_service_pb2
from eliza.sessions.v1.session_service_pb2_grpc import SessionServiceStub
from tests.service.docs.pages import example
from tests.service.tls.certificates import Authority
from tests.support.realtime.programs import Program, free_address
from tests.support.service import ECHO, USER, environment
from tests.support.waiting import until

NAME = "sessions.example.com"
LIVE = f"/etc/letsencrypt/live/{NAME}"
SECONDS = 30
ONE, OTHER = "203.0.113.7", "203.0.113.8"
"""Addresses of clients outside."""
WRONG_A_MINUTE = 10

AROUND = """
daemon off;
master_process off;
pid nginx.pid;
events {{}}
http {{
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    # Clients of the test say from where they are.
    set_real_ip_from 127.0.0.1;
    real_ip_header X-Test-Address;
    {site}
}}
"""


class Network(NamedTuple):
    """The service as the page leaves it. `https` and `grpc` are its addresses, `ca` the authority's file."""

    directory: Path
    program: Program
    https: str
    grpc: str
    ca: Path

    def key(self, name: str) -> str:
        return (self.directory / f"{name}.key").read_text().strip()

    def ask(
        self, method: str, path: str, key: str = "", address: str = ONE, **options: object
    ) -> requests.Response:
        """Sends a request by https from an address."""
        headers = {"Host": NAME, "X-Test-Address": address}
        if key:
            headers["X-API-KEY"] = key
        url = f"https://{self.https}/api/messaging/sessions{path}"
        return requests.request(method, url, headers=headers, verify=str(self.ca), timeout=SECONDS, **options)  # type: ignore[arg-type]

    def make_session(self) -> str:
        answer = self.ask("POST", "", self.key("shop"), json={"agentId": ECHO, "userId": USER})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["sessionId"])

    def say(self, session_id: str, content: str) -> None:
        answer = self.ask("POST", f"/{session_id}/messages", self.key("shop"), json={"content": content})
        assert answer.status_code == 201, answer.text

    def make_token(self, session_id: str) -> str:
        answer = self.ask("POST", f"/{session_id}/tokens", self.key("shop"), json={"verbs": ["read"]})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["accessToken"])


def own_path() -> str:
    return os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """What the page's first two blocks start, on addresses and in a directory of their own."""
    directory = tmp_path_factory.mktemp("network")
    authority = Authority(directory / "authority")
    chain, key = authority.sign(f"DNS:{NAME},IP:127.0.0.1")
    places = {
        f"{LIVE}/fullchain.pem": str(chain),
        f"{LIVE}/privkey.pem": str(key),
        "/etc/eliza-sessions": str(directory / "etc"),
        "0.0.0.0:50051": "0.0.0.0:0",
        "127.0.0.1:3000": "127.0.0.1:0",
        "eliza-sessions serve": "exec eliza-sessions serve",
    }
    script = example("network")
    assert len(script.splitlines()) <= 10
    for documented, ours in places.items():
        assert documented in script
        script = script.replace(documented, ours)
    with Program(["bash", "-euc", script], directory, PATH=own_path()) as program:
        https = free_address()
        site = example("network.nginx")
        for documented, ours in {
            "listen 443 ssl;": f"listen {https} ssl;",
            f"{LIVE}/fullchain.pem": str(chain),
            f"{LIVE}/privkey.pem": str(key),
            "127.0.0.1:3000": program.addresses["rest"],
            "/var/log/nginx/sessions.log": "sessions.log",
        }.items():
            assert documented in site
            site = site.replace(documented, ours)
        port = program.addresses["grpc"].rpartition(":")[2]
        found = Network(directory, program, https, f"127.0.0.1:{port}", authority.ca)
        with nginx(found, site):
            yield found


@contextlib.contextmanager
def nginx(network: Network, site: str) -> Iterator[None]:
    program = shutil.which("nginx", path=f"/usr/sbin:/usr/local/sbin:{os.environ['PATH']}")
    if program is None:
        pytest.fail("this test wants nginx: apt-get install nginx-light")
    (network.directory / "nginx.conf").write_text(AROUND.format(site=site))
    process = subprocess.Popen(
        [program, "-p", network.directory, "-c", "nginx.conf", "-e", "error.log"], stderr=subprocess.DEVNULL
    )

    def answers() -> bool:
        with contextlib.suppress(requests.ConnectionError):
            return network.ask("GET", "/health").status_code == 200
        return False

    try:
        until(lambda: process.poll() is not None or answers(), "nginx")
        assert process.poll() is None, (network.directory / "error.log").read_text()
        yield
    finally:
        process.terminate()
        process.wait(timeout=SECONDS)


def test_the_page_s_own_check_succeeds(network: Network) -> None:
    options = f"-sS --fail-with-body --cacert {network.ca} --connect-to {NAME}:443:{network.https}"
    curl = f'curl() {{ command curl {options} "$@"; }}\n'
    script = example("network.check").replace(f"{NAME}:50051", network.grpc)
    variables = {"PATH": own_path(), "SERVER_TLS_CA_CERT": str(network.ca), "SERVER_TLS_SERVER_NAME": NAME}
    done = subprocess.run(
        ["bash", "-euc", curl + script],
        cwd=network.directory,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    health, sessions, heading, *agents = done.stdout.splitlines()
    assert json.loads(health).keys() == {"status", "timestamp"}
    assert json.loads(sessions)["sessions"] == []
    assert heading.startswith("ID ")
    assert any(line.startswith(ECHO) for line in agents)


def test_a_client_with_a_key_works_and_one_without_is_refused(network: Network) -> None:
    session_id = network.make_session()
    network.say(session_id, "Hello!")
    refused = network.ask("GET", f"/{session_id}")
    assert (refused.status_code, refused.json()["code"]) == (401, "UNAUTHENTICATED")
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    # Plain http is spoken neither by nginx nor by the service's gRPC.
    plain = requests.get(f"http://{network.https}/api/messaging/sessions/health", timeout=SECONDS)
    assert plain.status_code == 400


def test_keys_are_their_owner_s_alone(network: Network) -> None:
    files = [
        network.directory / "operator.key",
        network.directory / "shop.key",
        *(network.directory / "etc").iterdir(),
    ]
    assert len(files) >= 3
    assert {path.stat().st_mode & 0o077 for path in files} == {0}
    log = network.program.log_path.read_text()
    assert [name for name in ("operator", "shop") if network.key(name) in log] == []


def test_grpc_wants_tls_and_a_key(network: Network) -> None:
    credentials = grpc.ssl_channel_credentials(network.ca.read_bytes())
    request = session_service_pb2.ListSessionsRequest()
    with grpc.secure_channel(network.grpc, credentials) as channel:
        stub = SessionServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ListSessions(request, timeout=SECONDS)
        assert error_info(refused.value).reason == "UNAUTHENTICATED"
        stub.ListSessions(request, timeout=SECONDS, metadata=(("x-api-key", network.key("shop")),))
    with grpc.insecure_channel(network.grpc) as channel, pytest.raises(grpc.RpcError) as plain:
        SessionServiceStub(channel).ListSessions(request, timeout=SECONDS)
    assert plain.value.code() is grpc.StatusCode.UNAVAILABLE


def test_limits_go_by_the_client_s_own_address(network: Network) -> None:
    def guess(address: str, **options: object) -> int:
        return network.ask("GET", "", "es_shop_" + "x" * 43, address, **options).status_code

    assert [guess(ONE) for _ in range(WRONG_A_MINUTE)] == [401] * WRONG_A_MINUTE
    assert guess(ONE) == 429
    assert guess(OTHER) == 401
    # What a client says of itself does not count.
    spoofed = {
        "Host": NAME,
        "X-Test-Address": ONE,
        "X-Forwarded-For": OTHER,
        "X-API-KEY": "es_shop_" + "x" * 43,
    }
    url = f"https://{network.https}/api/messaging/sessions"
    assert requests.get(url, headers=spoofed, verify=str(network.ca), timeout=SECONDS).status_code == 429
    assert network.ask("GET", "", network.key("shop"), ONE).status_code == 200


def test_events_come_as_they_happen_and_no_log_has_the_token(network: Network) -> None:
    session_id = network.make_session()
    token = network.make_token(session_id)
    path = f"/{session_id}/events?after=0&access_token={token}"
    with network.ask("GET", path, stream=True) as stream:
        assert stream.status_code == 200
        lines = stream.iter_lines(decode_unicode=True)
        network.say(session_id, "Hello by events!")
        told = next(line for line in lines if line.startswith("data: ") and '"sequence"' in line)
        assert json.loads(told.removeprefix("data: "))["text"] == "Hello by events!"
    log = network.directory / "sessions.log"
    until(lambda: f"/{session_id}/events" in log.read_text(), "the line of nginx")
    assert f"{ONE} [" in log.read_text()
    for path_of_log in (log, network.program.log_path):
        assert token not in path_of_log.read_text()


def test_a_socket_works_by_wss(network: Network) -> None:
    session_id = network.make_session()
    host, _, port = network.https.rpartition(":")
    context = ssl.create_default_context(cafile=str(network.ca))
    url = f"wss://{NAME}/socket.io/?EIO=4&transport=websocket"
    with (
        socket.create_connection((host, int(port)), timeout=SECONDS) as plain,
        connect_websocket(url, sock=plain, ssl=context, proxy=None) as client,
    ):
        assert _read(client, "0")
        client.send("40" + json.dumps({"token": network.make_token(session_id)}))
        assert _read(client, "40")
        client.send("42" + json.dumps(["join", {"roomId": session_id}]))
        _read(client, '42["channel_joined"')
        network.say(session_id, "Hello by wss!")
        assert "Hello by wss!" in _read(client, '42["messageBroadcast"')


def _read(client: ClientConnection, start: str) -> str:
    """The next packet that begins so."""
    while True:
        packet = client.recv(timeout=SECONDS)
        assert isinstance(packet, str)
        if packet.startswith(start):
            return packet
