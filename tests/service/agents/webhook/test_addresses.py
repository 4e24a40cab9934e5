"""Where a webhook may be: hosts that are refused, names, redirects and certificates."""

import socket
from pathlib import Path

import pytest

from server.agents import hosts
from server.domain.errors import InvalidFieldError
from tests.service.agents.asking import ATTEMPTS, Asking, agent, asking
from tests.service.agents.webhook.settings import TLS, served, settings
from tests.service.agents.webhook_server import (
    Server,
    answer,
    reply,
)

REFUSED = f"the agent's host {hosts.REFUSED}"

pytestmark = pytest.mark.asyncio(loop_scope="module")


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Has names resolve to these addresses, one answer after the other, the last for ever; returns who was
    asked for.
    """
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[tuple]:
        found = answers[min(len(asked), len(answers) - 1)]
        asked.append(host)
        return [
            (
                socket.AF_INET6 if ":" in one else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (one, port, 0, 0) if ":" in one else (one, port),
            )
            for one in found
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "2130706433", "0x7f000001", "127.1", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
        *(
            "[::127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "169.254.169.254",
            "2852039166",
        ),
        *(
            "[::ffff:169.254.169.254]",
            "[fe80::1]",
            "[fd00::1]",
            "0.0.0.0",
            "0",
            "[::]",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
        ),
        *("100.64.0.1", "224.0.0.1", "255.255.255.255", "[ff02::1]"),
    ],
)
async def test_a_private_address_is_refused_in_whatever_form(guarded: Asking, host: str) -> None:
    with Server(reply()) as server:
        reason, attempts = (
            await guarded.ask(await guarded.session(settings(f"http://{host}:{server.port}/")))
        ).failed
    assert server.connections == 0
    assert (reason, attempts) == (REFUSED, 1)


@pytest.mark.parametrize(
    "host", ["0177.0.0.1", "127.0.0.1.", "127.0.0.1%00.agent.test", "[::1%25lo]", "%31%32%37.0.0.1"]
)
async def test_what_is_no_host_is_not_asked(guarded: Asking, host: str) -> None:
    with Server(reply()) as server:
        assert (await guarded.ask(await guarded.session(settings(f"http://{host}:{server.port}/")))).failed
    assert server.connections == 0


@pytest.mark.parametrize(
    "addresses",
    [
        *(
            ["127.0.0.1"],
            ["169.254.169.254"],
            ["::1"],
            ["::ffff:127.0.0.1"],
            ["::ffff:169.254.169.254"],
            ["64:ff9b::a9fe:a9fe"],
        ),
        *(["fe80::1%lo"], ["fd00:ec2::254"], ["2002:7f00:1::"], ["0.0.0.0"], ["192.0.2.1"]),
        *(["8.8.8.8", "127.0.0.1"], ["127.0.0.1", "8.8.8.8"], ["2606:4700::1111", "::1"]),
    ],
    ids="+".join,
)
async def test_a_name_that_leads_to_a_private_address_is_refused(
    guarded: Asking, monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    with Server(reply()) as server:
        session_id = await guarded.session(settings(f"http://agent.test:{server.port}/"))
        asked = resolving(monkeypatch, addresses)
        assert (await guarded.ask(session_id)).failed == (REFUSED, 1)
    assert (server.connections, asked) == (0, ["agent.test"])


async def test_a_redirect_leads_to_no_private_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asking(tmp_path, allowed_hosts=["agent.test"]) as here:
        with (
            Server(reply()) as inner,
            Server(answer(b"", 307, headers={"Location": f"{inner.url}/"})) as server,
        ):
            session_id = await here.session(settings(f"http://agent.test:{server.port}/"))
            resolving(monkeypatch, ["127.0.0.1"])
            assert (await here.ask(session_id)).failed == (
                "the agent answered with status 307; redirects are not followed",
                1,
            )
    assert (len(server.requests), inner.connections) == (1, 0)


async def test_a_name_that_changes_after_it_was_checked_changes_nothing(
    guarded: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_public = hosts.is_public
    monkeypatch.setattr(hosts, "is_public", lambda address: address == "127.0.0.2" or is_public(address))
    with (
        Server(reply("checked"), host="127.0.0.2") as checked,
        Server(reply("not checked"), port=checked.port) as other,
    ):
        session_id = await guarded.session(settings(f"http://agent.test:{checked.port}/"))
        asked = resolving(monkeypatch, ["127.0.0.2"], ["127.0.0.1"])
        assert (await guarded.ask(session_id)).message.content == "checked"
        assert (asked, checked.connections, other.connections) == (["agent.test"], 1, 0)
        assert checked.requests[0].headers["host"] == f"agent.test:{checked.port}"
        # It is looked up, and checked, for each delivery.
        assert (await guarded.ask(session_id)).failed == (REFUSED, 1)
    assert (asked, checked.connections, other.connections) == (["agent.test"] * 2, 1, 0)


async def test_a_host_that_is_allowed_is_asked_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asking(tmp_path, allowed_hosts=["Agent.Test", "[::1]"]) as here:
        resolving(monkeypatch, ["127.0.0.1"])
        for host, allowed in {
            "agent.test": True,
            "AGENT.test": True,
            "other.test": False,
            "127.0.0.1": False,
            "x.agent.test": False,
        }.items():
            with Server(reply("in")) as server:
                answered = await here.ask(await here.session(settings(f"http://{host}:{server.port}/")))
            assert (answered.entry.message is not None, len(server.requests)) == (allowed, int(allowed)), host


async def test_a_name_that_does_not_resolve_is_asked_for_again(
    guarded: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = await guarded.session(settings("http://agent.test/"))
    asked: list[str] = []

    def getaddrinfo(host: str, *_: object, **__: object) -> list[tuple]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert (await guarded.ask(session_id)).failed == ("the agent cannot be reached: NoAddressError", ATTEMPTS)
    assert asked == ["agent.test"] * ATTEMPTS


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "http://[::1]/", "http://localhost:8/", "https://169.254.169.254/x"]
)
async def test_a_refused_host_is_not_registered(guarded: Asking, url: str) -> None:
    with pytest.raises(InvalidFieldError, match="AGENT_ALLOWED_HOSTS does not allow"):
        guarded.connectors.check(agent(settings(url)))


async def test_the_certificate_is_checked_against_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "certificate.pem"))
    async with asking(tmp_path, allowed_hosts=["sessions.test", "other.test"]) as here:
        resolving(monkeypatch, ["127.0.0.1"])
        with Server(reply("secure"), tls=served()) as server:
            url = f"https://sessions.test:{server.port}/"
            assert (await here.ask(await here.session(settings(url)))).message.content == "secure"
            other = await here.ask(await here.session(settings(url.replace("sessions", "other"))))
    assert other.failed == ("the agent cannot be reached: ConnectError", ATTEMPTS)
    assert len(server.requests) == 1


async def test_a_certificate_that_nobody_trusts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asking(tmp_path, allowed_hosts=["sessions.test"]) as here:
        resolving(monkeypatch, ["127.0.0.1"])
        with Server(reply(), tls=served()) as server:
            answered = await here.ask(await here.session(settings(f"https://sessions.test:{server.port}/")))
    assert answered.failed == ("the agent cannot be reached: ConnectError", ATTEMPTS)
    assert server.requests == []


async def test_no_proxy_of_the_environment_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(reply("by proxy")) as proxy, Server(reply("direct")) as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
            monkeypatch.setenv(name.lower(), proxy.url)
        async with asking(tmp_path) as here:
            assert (await here.ask(await here.session(settings(server.url)))).message.content == "direct"
    assert proxy.connections == 0
