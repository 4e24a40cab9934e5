"""A service that is spoken to in HTTP/1 and HTTP/2 as nobody should speak them, and what it answers."""

import contextlib
import random
import re
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tests.campaigns.http1_attacks import http1_attacks, http1_mutants
from tests.campaigns.http2_attacks import http2_attacks, http2_mutants
from tests.campaigns.http_attack import SMUGGLED_USER, Attack
from tests.support.service import Serve
from tests.support.waiting import PATIENCE_SECONDS

AT_A_TIME: Final = 12
QUIET_SECONDS: Final = 0.2
"""How long a server that does not close is listened to after its last byte."""


_DOWN: Final = "The port is closed:"


class Frames:
    """A run against a service. What it finds is in `problems`."""

    def __init__(self, service: Serve, run_seed: int) -> None:
        self._service = service
        self._random = random.Random(run_seed)
        self.statuses: Counter[str] = Counter()
        self.problems: list[str] = []
        self.connections = 0
        self._last = "none"

    def run(self, count: int, flood: int) -> None:
        """Makes about so many connections to each port, every attack once at least; floods have so many
        pieces.
        """
        for port, attacks, mutants in (
            (self._service.rest, list(http1_attacks(flood)), http1_mutants),
            (self._service.grpc, list(http2_attacks(flood)), http2_mutants),
        ):
            rounds = max(1, count // 4 // len(attacks))
            todo = [*attacks * rounds, *mutants(self._random, max(0, count - rounds * len(attacks)))]
            self._random.shuffle(todo)
            with ThreadPoolExecutor(AT_A_TIME) as pool:
                for attack, answer in zip(
                    todo, pool.map(lambda attack, port=port: self._talk(port, attack), todo), strict=True
                ):
                    if answer is not None:
                        self._judge(port, attack, *answer)
        listed = self._service.http.get(self._service.url, params={"userId": SMUGGLED_USER}, timeout=60)
        if listed.status_code != 200 or listed.json()["sessions"]:
            self.problems.append(
                f"requests were smuggled, or nobody knows: {listed.status_code} {listed.text[:300]}"
            )

    def _talk(self, port: str, attack: Attack) -> tuple[bytes, bool] | None:
        """Its answer; None when the port is closed: then the service is down, and nothing else
        can be tried.
        """
        if self.problems and self.problems[-1].startswith(_DOWN):
            return None
        try:
            return talk(port, attack)
        except OSError as error:
            self.problems.append(
                f"{_DOWN} {error!r}, at the latest after {self.connections} connections, of which the last "
                f"was {self._last}"
            )
            return None

    def _judge(self, port: str, attack: Attack, answer: bytes, closed: bool) -> None:
        self.connections += 1
        self._last = f"{attack.name} {attack.content[:300]!r}"
        if port == self._service.grpc:
            self.statuses["HTTP/2 closed" if closed else "HTTP/2 open"] += 1
            return
        statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]
        self.statuses[f"HTTP/1 {statuses[0] if statuses else 'no answer'}"] += 1
        if any(status >= 500 for status in statuses):
            self.problems.append(
                f"{attack.name} is answered with {statuses}: {answer[:300]!r}; sent {attack.content[:300]!r}"
            )
        if attack.refused and not (statuses == [attack.refused] and closed):
            self.problems.append(
                f"{attack.name} is not refused: {statuses}, closed {closed}: {answer[:300]!r}"
            )


def talk(address: str, attack: Attack) -> tuple[bytes, bool]:
    """Sends it and listens until the server closes or falls silent: what it said, and whether it closed."""
    host, _, port = address.rpartition(":")
    answer = bytearray()
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, TimeoutError):
            # Who does not read what the server says, but goes on, is stopped by the timeout: that is an
            # answer too.
            connection.sendall(attack.content)
            if attack.half_close:
                connection.shutdown(socket.SHUT_WR)
        # What must be answered is waited for.
        connection.settimeout(PATIENCE_SECONDS if attack.refused else QUIET_SECONDS)
        try:
            while piece := connection.recv(65536):
                answer += piece
        except TimeoutError:
            return bytes(answer), False
        except ConnectionResetError:
            pass
    return bytes(answer), True
