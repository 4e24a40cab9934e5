"""TLS of gRPC: versions, client certificates, and a certificate that is replaced while calls are made."""

import subprocess
import threading
from functools import partial
from pathlib import Path

import grpc
import pytest

from eliza.sessions.v1 import session_service_pb2
from eliza.sessions.v1.agent_service_pb2 import DeleteAgentRequest, ListAgentsRequest
from eliza.sessions.v1.agent_service_pb2_grpc import AgentServiceStub
from eliza.sessions.v1.session_service_pb2_grpc import SessionServiceStub
from tests.service.access.world import key_lines, make_key, write_keys
from tests.service.tls.certificates import Authority, Installed, s_client, shown_certificate
from tests.support.clients import fails, refused, run
from tests.support.service import ECHO, Serve, Start
from tests.support.waiting import until

STATUS = session_service_pb2.GetServiceStatusRequest()


def channel(address: str, authority: Authority, pair: tuple[Path, Path] | None = None) -> grpc.Channel:
    chain, key = pair or (None, None)
    credentials = grpc.ssl_channel_credentials(
        authority.ca.read_bytes(), key and key.read_bytes(), chain and chain.read_bytes()
    )
    # Channels to one address would share a connection otherwise.
    return grpc.secure_channel(address, credentials, [("grpc.use_local_subchannel_pool", 1)])


def ask(one: grpc.Channel) -> object:
    return SessionServiceStub(one).GetServiceStatus(STATUS, timeout=10)


def test_tls_has_versions_1_2_and_1_3_alone(start: Start, installed: Installed) -> None:
    service = start("--no-rest", **installed.settings("GRPC"))
    for version in ("-tls1_2", "-tls1_3"):
        assert s_client(service.grpc, version, "-alpn", "h2").returncode == 0
    old = s_client(service.grpc, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
    assert old.returncode != 0
    assert "BEGIN CERTIFICATE" not in old.stdout


def test_a_port_with_tls_takes_nothing_else(start: Start, installed: Installed, authority: Authority) -> None:
    service = start("--no-rest", **installed.settings("GRPC"))
    with channel(service.grpc, authority) as trusted:
        ask(trusted)
    with pytest.raises(grpc.RpcError) as plain, grpc.insecure_channel(service.grpc) as one:
        ask(one)
    assert plain.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_client_needs_a_certificate_of_the_authority(
    start: Start, installed: Installed, authority: Authority, tmp_path: Path
) -> None:
    service = start("--no-rest", **installed.settings("GRPC"), GRPC_TLS_CLIENT_CA=str(authority.ca))
    own, foreign = authority.sign("URI:spiffe://test/backend"), Authority(tmp_path / "foreign").sign()
    with channel(service.grpc, authority, own) as one:
        ask(one)
    for pair in (None, foreign):
        with pytest.raises(grpc.RpcError) as turned_away, channel(service.grpc, authority, pair) as one:
            ask(one)
        assert turned_away.value.code() == grpc.StatusCode.UNAVAILABLE
    # In TLS 1.2 the client sees it within its handshake.
    assert s_client(service.grpc, "-tls1_2", "-alpn", "h2").returncode != 0
    assert s_client(service.grpc, "-tls1_2", "-alpn", "h2", "-cert", own[0], "-key", own[1]).returncode == 0


def test_the_name_in_a_certificate_is_a_key(
    start: Start, installed: Installed, authority: Authority, tmp_path: Path
) -> None:
    shop, admin = make_key("shop"), make_key("admin")
    write_keys(
        tmp_path / "keys.toml",
        key_lines("shop", shop, role="service", certificate="spiffe://test/shop")
        + key_lines("admin", admin, role="admin"),
    )
    service = start(
        "--no-rest",
        **installed.settings("GRPC"),
        GRPC_TLS_CLIENT_CA=str(authority.ca),
        KEYS_FILE=str(tmp_path / "keys.toml"),
    )
    known = authority.sign("DNS:elsewhere,URI:spiffe://test/shop")
    with channel(service.grpc, authority, known) as one:
        agents = AgentServiceStub(one)
        assert agents.ListAgents(ListAgentsRequest(), timeout=10).agents
        # A service sees id, name and kind.
        fails(lambda: agents.DeleteAgent(DeleteAgentRequest(agent_id=ECHO), timeout=10), "PERMISSION_DENIED")
        # A key decides over a certificate.
        listed = agents.ListAgents(ListAgentsRequest(), metadata=(("x-api-key", admin),), timeout=10)
        assert listed.agents[0].HasField("created_at")
        wrong = (("x-api-key", make_key("shop")),)
        fails(lambda: agents.ListAgents(ListAgentsRequest(), metadata=wrong, timeout=10), "UNAUTHENTICATED")
    with channel(service.grpc, authority, authority.sign("URI:spiffe://test/another")) as one:
        fails(lambda: AgentServiceStub(one).ListAgents(ListAgentsRequest(), timeout=10), "UNAUTHENTICATED")


def _replace(service: Serve, installed: Installed, authority: Authority) -> None:
    """Replaces a server's certificate and waits until it shows the new one."""
    before = shown_certificate(service.grpc)
    installed.install(authority.sign())
    until(lambda: shown_certificate(service.grpc) not in (b"", before), "the new certificate")


def _went_on(calls: list[int], seen: tuple[int, ...]) -> bool:
    return all(now > then for now, then in zip(calls, seen, strict=True))


def test_a_replaced_certificate_is_shown_and_no_call_fails(
    start: Start, installed: Installed, authority: Authority
) -> None:
    service = start("--no-rest", **installed.settings("GRPC"))
    stop, failures, calls = threading.Event(), [], [0, 0]

    def call_by_new_channels() -> None:
        while not stop.is_set():
            try:
                with channel(service.grpc, authority) as one:
                    ask(one)
                calls[0] += 1
            except grpc.RpcError as error:
                failures.append(error)

    def call_by_one_channel() -> None:
        with channel(service.grpc, authority) as one:
            while not stop.is_set():
                try:
                    ask(one)
                    calls[1] += 1
                except grpc.RpcError as error:
                    failures.append(error)

    threads = [threading.Thread(target=target) for target in (call_by_new_channels, call_by_one_channel)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            _replace(service, installed, authority)
            seen = tuple(calls)
            until(partial(_went_on, calls, seen), "more calls")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures


@pytest.mark.parametrize("broken", ["another key", "no PEM", "away"])
def test_a_broken_certificate_leaves_the_one_before(
    start: Start, installed: Installed, authority: Authority, broken: str
) -> None:
    service = start("--no-rest", **installed.settings("GRPC"))
    before = shown_certificate(service.grpc)
    match broken:
        case "another key":
            installed.key.write_bytes(authority.sign()[1].read_bytes())
        case "no PEM":
            installed.chain.write_text("nothing")
        case "away":
            installed.key.unlink()
    warning = "a changed certificate cannot be used"
    until(lambda: shown_certificate(service.grpc) and warning in service.log(), "the warning")
    for _ in range(3):
        assert shown_certificate(service.grpc) == before
    assert service.log().count(warning) == 1
    assert "PRIVATE" not in service.log()
    installed.install(authority.sign())
    until(lambda: shown_certificate(service.grpc) not in (b"", before), "the good certificate")


@pytest.mark.parametrize("side", ["GRPC", "REST"])
def test_wrong_files_and_settings_are_no_start(
    installed: Installed, authority: Authority, tmp_path: Path, side: str
) -> None:
    both = installed.settings(side)
    assert "go together" in refused("serve", cwd=tmp_path, **{f"{side}_TLS_KEY": both[f"{side}_TLS_KEY"]})
    absent = {**both, f"{side}_TLS_KEY": str(tmp_path / "absent.key")}
    assert "absent.key cannot be read" in refused("serve", cwd=tmp_path, **absent)
    other = {**both, f"{side}_TLS_KEY": str(authority.sign()[1])}
    assert "key values mismatch" in refused("serve", cwd=tmp_path, **other)
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "ec", "-in", installed.key, "-aes256", "-passout", "pass:secret", "-out", locked],
        check=True,
        capture_output=True,
        timeout=30,
    )
    assert "cannot be used" in refused("serve", cwd=tmp_path, **{**both, f"{side}_TLS_KEY": str(locked)})


def test_the_commands_speak_tls(
    start: Start, installed: Installed, authority: Authority, tmp_path: Path
) -> None:
    service = start("--no-rest", **installed.settings("GRPC"), GRPC_TLS_CLIENT_CA=str(authority.ca))
    chain, key = map(str, authority.sign("DNS:backend"))
    trust = ("--tls", "--tls-ca-cert", str(authority.ca), "--tls-client-cert", chain, "--tls-client-key", key)
    server = ("--server", service.grpc)
    for arguments in (
        ("probe", *server, *trust),
        ("agents", *server, *trust, "list"),
        ("agents", "list", *server, *trust),
    ):
        done = run(*arguments, cwd=tmp_path)
        assert done.status == 0, done.errors
    variables = {
        "GRPC_ADDRESS": service.grpc,
        "SERVER_TLS": "1",
        "SERVER_TLS_CA_CERT": str(authority.ca),
        "SERVER_TLS_CLIENT_CERT": chain,
        "SERVER_TLS_CLIENT_KEY": key,
    }
    assert run("agents", "list", cwd=tmp_path, **variables).status == 0
    assert run("probe", cwd=tmp_path, **variables).status == 0
    assert "UNAVAILABLE" in run("agents", *server, "list", cwd=tmp_path).errors
    assert "needs --tls" in run("agents", *server, *trust[1:], "list", cwd=tmp_path).errors
