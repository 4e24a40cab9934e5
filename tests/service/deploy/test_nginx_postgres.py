"""deploy/nginx/compose.postgres.conf in a real nginx, before three servers on one PostgreSQL and two facades:
all that the service speaks goes through it, also once a server and a facade are gone.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import grpc
import pytest
import requests

from eliza.sessions.v1 import session_service_pb2, session_service_pb2_grpc
from tests.service.deploy.front import CHECKS, Front, wait_until_it_answers
from tests.service.deploy.programs import DEPLOY, program, running
from tests.service.deploy.test_nginx import AROUND
from tests.service.replicas.running import Replicas
from tests.support.metrics import scrape
from tests.support.realtime.programs import Facade, free_address
from tests.support.service import ECHO, USER, Serve
from tests.support.waiting import until

pytestmark = pytest.mark.deploy("nginx")

SAMPLE: Final = (DEPLOY / "nginx/compose.postgres.conf").read_text()
CALLS: Final = "rpc_server_call_duration_seconds_count"
CREATE: Final = "eliza.sessions.v1.SessionService/CreateSession"


class Stage:
    """Three servers, two facades that have all of them, and nginx."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.replicas = Replicas(directory, 3, METRICS_ADDRESS="127.0.0.1:0")
        stack.callback(self.replicas.close)
        addresses = ",".join(server.grpc for server in self.replicas.servers)
        self.facades = [
            stack.enter_context(Facade(f"ipv4:{addresses}", "127.0.0.1:0", directory / name))
            for name in ("rest-1", "rest-2")
        ]
        rest, rpc = free_address(), free_address()
        site = SAMPLE.replace("listen 3000;", f"listen {rest};").replace("listen 50051 ", f"listen {rpc} ")
        for number, server in enumerate(self.replicas.servers, 1):
            site = site.replace(f"server-{number}:50051", server.grpc)
        for number, facade in enumerate(self.facades, 1):
            site = site.replace(f"rest-{number}:3000", facade.address)
        assert re.findall(r"(?:server|rest)-\d:", site) == []
        (directory / "nginx.conf").write_text(AROUND.format(site=site))
        line = [program("nginx"), "-p", directory, "-c", "nginx.conf", "-e", "error.log"]
        stack.enter_context(running(line, directory, "out.log"))
        http = stack.enter_context(requests.Session())
        http.trust_env = False
        channel = stack.enter_context(grpc.insecure_channel(rpc))
        self.front = Front(f"http://{rest}", http, channel)
        wait_until_it_answers(self.front.url, http)

    def create_over_grpc(self) -> None:
        """Creates a session over gRPC."""
        wanted = session_service_pb2.CreateSessionRequest(agent_id=ECHO, user_id=USER)
        session_service_pb2_grpc.SessionServiceStub(self.front.channel).CreateSession(wanted, timeout=30)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """All of it, for the tests of this module in their order."""
    with ExitStack() as stack:
        yield Stage(tmp_path_factory.mktemp("front"), stack)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_lets_everything_through(stage: Stage, check: Callable[[Front], None]) -> None:
    check(stage.front)


def created(server: Serve) -> float:
    """How many sessions a server has made."""
    return scrape(server.metrics).sum(CALLS, rpc_method=CREATE, rpc_response_status_code="OK")


def test_calls_go_to_all_servers_whoever_brings_them(stage: Stage) -> None:
    for make in (stage.front.create, stage.create_over_grpc):
        before = [created(server) for server in stage.replicas.servers]
        for _ in range(12):
            make()

        def all_have_some(before: list[float] = before) -> bool:
            after = [created(server) for server in stage.replicas.servers]
            return all(late > early for early, late in zip(before, after, strict=True))

        # A call is counted right after its answer.
        until(all_have_some, "calls at all servers")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_lets_everything_through_without_one_of_each(stage: Stage, check: Callable[[Front], None]) -> None:
    """The first check meets them right after; what breaks off is taken up by those that are left."""
    stage.facades[0].kill()
    server = stage.replicas.servers[0]
    if server.process.poll() is None:
        server.kill()
    check(stage.front)
