"""A keys file that changes while the service runs."""

import itertools
from datetime import UTC, datetime
from typing import Final

from eliza.sessions.v1 import clock_service_pb2
from tests.service.access.attacked import Attacked
from tests.service.access.world import ALICE, TENANT, Metadata, key_lines, make_key, write_keys
from tests.support.waiting import until

_numbers: Final = itertools.count(1)


class Ring:
    """The keys of a service: those of its world, and further ones that come, change and go."""

    def __init__(self, attacked: Attacked) -> None:
        self._attacked = attacked
        self._path = attacked.directory / "keys.toml"
        self._first = self._path.read_text()
        self._keys: dict[str, tuple[str, dict[str, str]]] = {}

    def add(self, role: str = "user", **fields: str) -> Metadata:
        """Adds a key, Alice's where nothing else is said; returns what its calls carry once it is good."""
        if role == "user":
            fields = {"user": ALICE, **fields}
        key_id = f"key-{next(_numbers)}"
        key = make_key(key_id)
        self._keys[key] = (key_id, {"role": role, "tenant": TENANT, **fields})
        self._write()
        until(lambda: self._is_good(key), "a new key to be good")
        return (("x-api-key", key),)

    def add_expiring(self, role: str = "user", seconds: int = 60, **fields: str) -> Metadata:
        """Adds a key that expires after so many seconds of the service's clock."""
        end = datetime.fromtimestamp(self._attacked.now_s + seconds, UTC)
        return self.add(role, not_after=end.strftime("%Y-%m-%dT%H:%M:%SZ"), **fields)

    def change(self, metadata: Metadata, **fields: str) -> None:
        """Changes what a key may do; '' leaves a field out."""
        key_id, before = self._keys[metadata[0][1]]
        after = {name: text for name, text in (before | fields).items() if text}
        self._keys[metadata[0][1]] = key_id, after
        self._write()

    def remove(self, metadata: Metadata) -> None:
        """Removes a key."""
        del self._keys[metadata[0][1]]
        self._write()

    def _write(self) -> None:
        lines = [key_lines(key_id, key, **fields) for key, (key_id, fields) in self._keys.items()]
        write_keys(self._path, "\n".join([self._first, *lines]))

    def _is_good(self, key: str) -> bool:
        outcome = self._attacked.grpc_outcome(("x-api-key", key))
        return outcome not in ("UNAUTHENTICATED", "RATE_LIMITED")


def advance(attacked: Attacked, seconds: int) -> None:
    """Moves the service's clock."""
    asked = clock_service_pb2.AdvanceClockRequest(advance_ms=seconds * 1000)
    admin = attacked.world.metadata("admin")
    attacked.world.service.clock.AdvanceClock(asked, metadata=admin, timeout=20)
