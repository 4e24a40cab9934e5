"""deploy/nginx/eliza-sessions.conf in a real nginx: TLS, and all that the service speaks, on one address."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import grpc
import pytest
import requests

from tests.service.deploy.front import CHECKS, NAME, Behind, Front, behind, wait_until_it_answers
from tests.service.deploy.programs import DEPLOY, program, running
from tests.support.realtime.programs import free_address
from tests.support.service import ECHO, USER, Serve

pytestmark = pytest.mark.deploy("nginx")

SAMPLE: Final = (DEPLOY / "nginx/eliza-sessions.conf").read_text()
TLS: Final = Path(__file__).parents[1] / "tls"
CERTIFICATE: Final = TLS / "certificate.pem"

AROUND = """
daemon off;
master_process off;
pid nginx.pid;
events {{}}
http {{
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    access_log off;
    {site}
}}
"""


@pytest.fixture(scope="module")
def stage(plain: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    """The server and the facades."""
    with behind(plain, tmp_path_factory.mktemp("nginx-facades")) as placed:
        yield placed


@pytest.fixture(scope="module")
def plain_address() -> str:
    """Where nginx listens without TLS."""
    return free_address()


@pytest.fixture(scope="module")
def front(stage: Behind, plain_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """nginx with the sample, on addresses and with a certificate of the tests."""
    directory = tmp_path_factory.mktemp("nginx")
    address = free_address()
    port = address.rpartition(":")[2]
    site = stage.placed(SAMPLE)
    for old, new in (
        ("listen 80;", f"listen {plain_address};"),
        ("listen 443 ssl", f"listen {address} ssl"),
        ("/etc/nginx/tls/sessions.pem", str(CERTIFICATE)),
        ("/etc/nginx/tls/sessions.key", str(TLS / "key.pem")),
    ):
        assert old in site
        site = site.replace(old, new)
    (directory / "nginx.conf").write_text(AROUND.format(site=site))
    line = [program("nginx"), "-p", directory, "-c", "nginx.conf", "-e", "error.log"]
    credentials = grpc.ssl_channel_credentials(CERTIFICATE.read_bytes())
    with (
        running(line, directory, "out.log"),
        requests.Session() as http,
        # The certificate is for this name.
        grpc.secure_channel(f"localhost:{port}", credentials) as channel,
    ):
        http.trust_env = False
        http.verify = str(CERTIFICATE)
        url = f"https://localhost:{port}"
        wait_until_it_answers(url, http)
        yield Front(url, http, channel)
        # The sample is one that nginx takes without a word.
        assert [line for line in (directory / "error.log").read_text().splitlines() if "[warn]" in line] == []


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_lets_everything_through(front: Front, check: Callable[[Front], None]) -> None:
    check(front)


def test_http_leads_to_https(front: Front, plain_address: str) -> None:
    answer = front.http.post(
        f"http://{plain_address}/x?y=z", headers={"Host": NAME}, allow_redirects=False, timeout=30
    )
    assert (answer.status_code, answer.headers["Location"]) == (308, f"https://{NAME}/x?y=z")


def test_a_foreign_page_is_refused_and_its_own_is_not(front: Front) -> None:
    def ask(**headers: str) -> int:
        sent = {"Host": NAME, **headers}
        body = {"agentId": ECHO, "userId": USER}
        return front.http.post(front.sessions, json=body, headers=sent, timeout=30).status_code

    assert ask(Origin=f"https://{NAME}") == 201
    assert ask(Origin="https://evil.example") == 403
    assert ask(Host="evil.example") == 421
