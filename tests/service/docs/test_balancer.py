"""Several `eliza-sessions rest` behind nginx as the docs have it: Socket.IO clients that begin with
long-polling get their events.
"""

import asyncio
import contextlib
import shlex
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import aiohttp
import pytest
import requests
import socketio
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect as connect_websocket

from tests.service.docs.pages import example
from tests.support.realtime.programs import Command, Facade, Program, free_address
from tests.support.service import Serve
from tests.support.waiting import until

CLIENTS = 12
DEADLINE_SECONDS = 60

AROUND = """
daemon off;
master_process off;
pid nginx.pid;
events {{}}
http {{
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    log_format upstream '$upstream_addr';
    access_log upstream.log upstream;
    {site}
}}
"""


@pytest.fixture
def facades(service: Serve, tmp_path: Path) -> Iterator[list[Program]]:
    """The two processes of the facade that the docs start, on addresses of their own."""
    with ExitStack() as stack:
        programs = []
        for number, line in enumerate(example("rest").splitlines()):
            address = f"127.0.0.1:{3001 + number}"
            assert line.startswith("eliza-sessions ")
            assert address in line
            words = shlex.split(line.replace(address, "127.0.0.1:0").replace("127.0.0.1:50051", service.grpc))
            programs.append(Command(words[1:], tmp_path / f"{number}"))
            stack.callback(programs[-1].kill)
        yield programs


@pytest.fixture
def balancer(facades: list[Program], tmp_path: Path) -> Iterator[str]:
    """nginx with the docs' configuration and these addresses; yields its HOST:PORT."""
    with nginx(example("nginx"), facades, tmp_path) as address:
        yield address


@contextlib.contextmanager
def nginx(site: str, facades: list[Program], tmp_path: Path) -> Iterator[str]:
    """nginx with a configuration such as the docs', on an address of its own, before these two; yields its
    HOST:PORT.
    """
    program = shutil.which(
        "nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin"
    )
    if program is None:
        pytest.fail("this test wants nginx: apt-get install nginx-light")
    one, two = (running.addresses["rest"] for running in facades)
    address = free_address()
    site = (
        site.replace("127.0.0.1:3001", one)
        .replace("127.0.0.1:3002", two)
        .replace("listen 80;", f"listen {address};")
    )
    (tmp_path / "nginx.conf").write_text(AROUND.format(site=site))
    process = subprocess.Popen(
        [program, "-p", tmp_path, "-c", "nginx.conf", "-e", "error.log"], stderr=subprocess.DEVNULL
    )

    def answers() -> bool:
        with contextlib.suppress(requests.ConnectionError):
            return (
                requests.get(f"http://{address}/api/messaging/sessions/health", timeout=20).status_code == 200
            )
        return False

    try:
        until(lambda: process.poll() is not None or answers(), "nginx")
        assert process.poll() is None, (tmp_path / "error.log").read_text()
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextlib.asynccontextmanager
async def listener(
    address: str, own_address: str, session_id: str, transports: list[str] | None
) -> AsyncIterator[asyncio.Queue[str]]:
    """A Socket.IO client that has joined a session; yields the texts that it hears."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    joined = asyncio.Event()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=(own_address, 0))) as http:
        client = socketio.AsyncClient(http_session=http, reconnection=False)
        client.on("messageBroadcast", lambda message: heard.put_nowait(message["text"]))
        client.on("channel_joined", lambda _: joined.set())
        await client.connect(f"http://{address}", transports=transports)
        try:
            await client.emit("join", {"roomId": session_id})
            await joined.wait()
            yield heard
        finally:
            await client.disconnect()


@pytest.mark.parametrize("transports", [None, ["polling"]], ids=["default", "polling"])
async def test_every_client_behind_the_balancer_gets_its_events(
    service: Serve, balancer: str, tmp_path: Path, transports: list[str] | None
) -> None:
    session_id = service.create()["sessionId"]
    url = f"http://{balancer}/api/messaging/sessions/{session_id}/messages"
    async with asyncio.timeout(DEADLINE_SECONDS), AsyncExitStack() as stack:
        # From a network each, since ip_hash goes by that.
        clients = [
            await stack.enter_async_context(listener(balancer, f"127.0.{number}.1", session_id, transports))
            for number in range(CLIENTS)
        ]
        sent = await asyncio.to_thread(requests.post, url, json={"content": "hello"}, timeout=30)
        assert sent.status_code == 201
        assert [[await heard.get(), await heard.get()] for heard in clients] == [["hello", "hello"]] * CLIENTS
    # Both processes had clients.
    assert len(set((tmp_path / "upstream.log").read_text().split())) == 2


WITH_HOST = "proxy_set_header Host $http_host;"
NAME = "sessions.example"


def ask(address: str, **headers: str) -> tuple[int, str]:
    """What nginx answers to a request for NAME: the status, and the code of an error."""
    sent = {"Host": NAME, **{name.replace("_", "-"): value for name, value in headers.items()}}
    answer = requests.post(f"http://{address}/api/messaging/sessions", json={}, headers=sent, timeout=30)
    return answer.status_code, answer.json()["code"]


def is_upgraded(address: str, origin: str) -> bool:
    """Whether a page of an origin gets a WebSocket through nginx."""
    host, _, port = address.rpartition(":")
    url = f"ws://{NAME}/socket.io/?EIO=4&transport=websocket"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        try:
            with connect_websocket(url, sock=connection, origin=origin, proxy=None):
                return True
        except InvalidStatus as error:
            if error.response.status_code == 403:
                return False
            raise


FINE = (400, "MISSING_FIELDS")
FOREIGN = (403, "ORIGIN_NOT_ALLOWED")


def test_pages_behind_nginx_that_tells_the_host(service: Serve, tmp_path: Path) -> None:
    with ExitStack() as stack:
        named = {"REST_ALLOWED_HOSTS": NAME}
        allowed = [Facade(service.grpc, "127.0.0.1:0", tmp_path / name, **named) for name in ("one", "two")]
        for program in allowed:
            stack.callback(program.kill)
        assert WITH_HOST in example("nginx")
        address = stack.enter_context(nginx(example("nginx"), allowed, tmp_path))
        assert ask(address) == FINE
        assert ask(address, Sec_Fetch_Site="same-origin", Origin=f"https://{NAME}") == FINE
        # Older browsers, and all over plain HTTP, say no more than the origin.
        assert ask(address, Origin=f"http://{NAME}") == FINE
        assert ask(address, Origin="https://evil.example") == FOREIGN
        assert ask(address, Origin=f"http://{NAME}", Sec_Fetch_Site="cross-site") == FOREIGN
        assert is_upgraded(address, f"http://{NAME}")
        assert not is_upgraded(address, "https://evil.example")
        # A page that has its name lead here is of that name, and of no other.
        assert ask(address, Host="evil.example", Origin="http://evil.example") == (421, "HOST_NOT_ALLOWED")


def test_a_name_behind_nginx_has_to_be_allowed(facades: list[Program], tmp_path: Path) -> None:
    with nginx(example("nginx"), facades, tmp_path) as address:
        assert ask(address) == (421, "HOST_NOT_ALLOWED")
        told = [line for line in facades[0].log_path.read_text().splitlines() if "REST_ALLOWED_HOSTS" in line]
        told += [
            line for line in facades[1].log_path.read_text().splitlines() if "REST_ALLOWED_HOSTS" in line
        ]
        assert len(told) == 1
        assert NAME in told[0]


def test_pages_behind_nginx_that_tells_its_own_host(
    service: Serve, facades: list[Program], tmp_path: Path
) -> None:
    """It calls the facade by the upstream's address, which is ours: so only browsers that say so are known to
    be of the same origin.
    """
    (port,) = {program.addresses["rest"] for program in facades[:1]}
    site = example("nginx").replace(WITH_HOST, "").replace("http://eliza_rest", f"http://{port}")
    with nginx(site, facades, tmp_path) as address:
        assert ask(address) == FINE
        assert ask(address, Sec_Fetch_Site="same-origin", Origin=f"https://{NAME}") == FINE
        assert ask(address, Origin=f"https://{NAME}") == FOREIGN
        assert not is_upgraded(address, f"https://{NAME}")
    named = Facade(service.grpc, "127.0.0.1:0", tmp_path / "named", REST_ALLOWED_ORIGINS=f"https://{NAME}")
    try:
        with nginx(site.replace(port, named.addresses["rest"]), facades, tmp_path) as address:
            assert ask(address, Origin=f"https://{NAME}") == FINE
            assert is_upgraded(address, f"https://{NAME}")
            assert ask(address, Origin="https://evil.example") == FOREIGN
    finally:
        named.kill()
