"""Where there is a console: by its setting, and not where others reach a service that is open."""

from pathlib import Path

import pytest
import requests

from tests.support.clients import invoke
from tests.support.realtime.programs import Facade
from tests.support.service import Serve, Start
from tests.support.waiting import until

PATHS = ("/console", "/console/system", "/console/parts/status", "/docs")
TOLD = "the console is off: the service is open, and others can reach it"


def statuses(address: str, **headers: str) -> list[int]:
    port = address.rpartition(":")[2]
    return [
        requests.get(f"http://127.0.0.1:{port}{path}", headers=headers, timeout=20).status_code
        for path in PATHS
    ]


def test_it_is_there_on_loopback(plain: Serve) -> None:
    assert statuses(plain.rest) == [200] * 4
    assert TOLD not in plain.log()


@pytest.mark.parametrize("word", ["off", "false"])
def test_it_can_be_switched_off(start: Start, word: str) -> None:
    service = start(CONSOLE=word)
    assert statuses(service.rest) == [404] * 4
    root = requests.get(f"http://{service.rest}/", timeout=20)
    assert (root.status_code, "console" in root.text) == (200, False)
    assert TOLD not in service.log()


def test_an_open_service_that_others_reach_has_none_and_says_so(start: Start) -> None:
    service = start(REST_ADDRESS="0.0.0.0:0", ALLOW_OPEN="true")
    assert statuses(service.rest) == [404] * 4
    assert TOLD in service.log()


def test_a_protected_service_that_others_reach_has_one(start: Start, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    key = invoke("keys", "add", "--role", "admin", "--id", "ops", "--file", str(keys)).out.strip()
    service = start(REST_ADDRESS="0.0.0.0:0", KEYS_FILE=str(keys))
    assert statuses(service.rest, Authorization=f"Bearer {key}") == [200] * 4


@pytest.mark.parametrize("is_protected", [True, False])
def test_a_facade_that_others_reach_asks_its_server(start: Start, tmp_path: Path, is_protected: bool) -> None:
    keys = tmp_path / "keys.toml"
    invoke("keys", "add", "--role", "admin", "--id", "ops", "--file", str(keys))
    server = start("--no-rest", **({"KEYS_FILE": str(keys)} if is_protected else {}))
    with Facade(server.grpc, "0.0.0.0:0", tmp_path / "facade", ALLOW_OPEN="true") as facade:
        log = tmp_path / "facade" / "program.log"
        if is_protected:
            until(lambda: statuses(facade.address)[0] == 200, "the console")
            assert TOLD not in log.read_text()
        else:
            until(lambda: TOLD in log.read_text(), "the line in the log")
            assert statuses(facade.address) == [404] * 4


def test_a_facade_on_loopback_has_one_at_once_unless_it_is_off(plain: Serve, tmp_path: Path) -> None:
    with Facade(plain.grpc, "127.0.0.1:0", tmp_path / "on") as facade:
        assert statuses(facade.address) == [200] * 4
    with Facade(plain.grpc, "127.0.0.1:0", tmp_path / "off", CONSOLE="off") as facade:
        assert statuses(facade.address) == [404] * 4
