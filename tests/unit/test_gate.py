"""The way into a call: what a REST facade of its own may say, and what becomes of its clients' calls."""

from pathlib import Path
from typing import Any

import pytest

from eliza.sessions.call_metadata import API_KEY_KEY, CLIENT_ADDRESS_KEY, FACADE_KEY_KEY
from server.access.access_settings import AccessSettings
from server.access.authentication import Authentication
from server.access.limits import Rates
from server.domain.errors import UnauthenticatedError, UnavailableError
from server.rpc.gate import AccessGate
from tests.service.access.world import key_lines, make_key, write_keys

GET = "/eliza.sessions.v1.SessionService/GetSession"
FACADE, SHOP = make_key("facade"), make_key("shop")


class Caller:
    """A call from an address, with metadata."""

    def __init__(self, *metadata: tuple[str, str]) -> None:
        self._metadata = metadata

    def peer(self) -> str:
        return "ipv4:192.0.2.1:4711"

    def invocation_metadata(self) -> Any:
        return self._metadata

    def time_remaining(self) -> float | None:
        return None

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        raise NotImplementedError


@pytest.fixture
def gate(tmp_path: Path) -> AccessGate:
    path = tmp_path / "keys.toml"
    write_keys(path, key_lines("facade", FACADE, role="facade") + key_lines("shop", SHOP, role="service"))
    authentication = Authentication.open(AccessSettings(keys_file=path), lambda: 0, lambda: 0.0)
    return AccessGate(authentication, Rates({}, lambda: 0.0), lambda: 0)


async def test_the_address_of_a_client_is_believed_of_a_facade_with_a_key_alone(gate: AccessGate) -> None:
    client = (API_KEY_KEY, SHOP), (CLIENT_ADDRESS_KEY, "203.0.113.9")
    call = await gate.enter(GET, Caller(*client))
    assert call.principal.address == "192.0.2.1"
    call = await gate.enter(GET, Caller(*client, (FACADE_KEY_KEY, FACADE)))
    assert (call.principal.id, call.principal.address) == ("shop", "203.0.113.9")


async def test_a_facade_whose_key_is_not_good_is_no_fault_of_its_clients(gate: AccessGate) -> None:
    # Also where it asks more often than wrong keys may be sent.
    for _ in range(12):
        with pytest.raises(UnavailableError):
            await gate.enter(GET, Caller((API_KEY_KEY, SHOP), (FACADE_KEY_KEY, make_key("facade"))))


async def test_a_facade_is_no_caller(gate: AccessGate) -> None:
    with pytest.raises(UnauthenticatedError):
        await gate.enter(GET, Caller((FACADE_KEY_KEY, FACADE)))
