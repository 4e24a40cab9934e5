"""The parts of the service, how each is, and since when: what an operator looks at first."""

import uuid
from collections.abc import Awaitable, Callable, Mapping
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

import structlog

from server.access.authentication import Authentication
from server.delivery.statuses import AgentStatuses
from server.domain.access import EVERYTHING
from server.lifecycle.expiry import ExpiryScheduler
from server.lifecycle.health import HealthMonitor
from server.lifecycle.purge import Purge
from server.store.contract import Store

LITTLE_ROOM_BYTES: Final = 1024**3
"""How much must be free where the store is: as much as the alert ElizaDiskFull wants."""

LATE_SECONDS: Final = 60
"""How late deadlines may be: as late as the alert ElizaExpiryLate allows."""

NAMED_AGENTS: Final = 3
"""How many agents that cannot be asked are named."""

log = structlog.get_logger()


class Health(IntEnum):
    """How a part is, by the numbers of GetServiceStatusResponse.Health."""

    HEALTHY = 1
    DEGRADED = 2
    """It works, but not all of it."""
    UNHEALTHY = 3
    """It does not work."""


class Finding(NamedTuple):
    """How a part is, and what is wrong, for people."""

    health: Health
    reason: str = ""


class Part(NamedTuple):
    """A part, how it is, and since when, in ms of the machine's clock."""

    name: str
    finding: Finding
    since_ms: int


Look: TypeAlias = Callable[[], Awaitable[Finding]]
"""Looks how a part is. What it raises says that it is not well."""

WELL: Final = Finding(Health.HEALTHY)


class Parts:
    """Looks at all parts, and remembers since when each is as it is: as far as somebody has looked."""

    def __init__(self, looks: Mapping[str, Look], now_ms: Callable[[], int]) -> None:
        """`now_ms` tells the machine's time. At first all parts count as well."""
        self._looks = looks
        self._now_ms = now_ms
        self._seen = {name: (Health.HEALTHY, now_ms()) for name in looks}

    async def look(self) -> list[Part]:
        """Looks at all parts."""
        return [await self._look(name, look) for name, look in self._looks.items()]

    async def _look(self, name: str, look: Look) -> Part:
        try:
            finding = await look()
        except Exception as error:  # noqa: BLE001 - whatever it is, it says how the part is
            error_id = uuid.uuid4().hex
            if self._seen[name][0] is not Health.UNHEALTHY:
                log.warning("a part cannot be looked at", part=name, error_id=error_id, cause=str(error))
            finding = Finding(Health.UNHEALTHY, f"it cannot be looked at: {error}")
        health, since_ms = self._seen[name]
        if health is not finding.health:
            since_ms = self._now_ms()
            self._seen[name] = finding.health, since_ms
        return Part(name, finding, since_ms)


def looks_at(
    store: Store,
    health: HealthMonitor,
    expiry: ExpiryScheduler,
    purge: Purge,
    authentication: Authentication,
    statuses: AgentStatuses,
    crashed: Mapping[str, str],
) -> dict[str, Look]:
    """How each part of the service is looked at. `crashed`: background work that has ended, and why."""

    async def look_at_store() -> Finding:
        if not health.is_serving:
            return Finding(Health.UNHEALTHY, f"nothing can be written: {health.trouble or 'not tried yet'}")
        if "health" in crashed:
            return Finding(Health.DEGRADED, f"nobody tries it any more: {crashed['health']}; restart")
        free_bytes = (await store.measure()).free_bytes
        if free_bytes is not None and free_bytes < LITTLE_ROOM_BYTES:
            mib = free_bytes // 1024**2
            return Finding(Health.DEGRADED, f"{mib} MiB are free on its file system: make room")
        return WELL

    async def look_at_sessions() -> Finding:
        invalid = (await store.counts(scope=EVERYTHING)).invalid
        if not invalid:
            return WELL
        return Finding(
            Health.DEGRADED,
            f"{invalid} that were met cannot be read back: `eliza-sessions check` tells what is wrong",
        )

    async def look_at_expiry() -> Finding:
        if "expiry" in crashed:
            return Finding(Health.UNHEALTHY, f"no session expires any more: {crashed['expiry']}; restart")
        late_s = expiry.lag_ms() // 1000
        if expiry.trouble or late_s > LATE_SECONDS:
            why = f": {expiry.trouble}" if expiry.trouble else ""
            return Finding(Health.DEGRADED, f"warnings and expiries are {late_s} seconds late{why}")
        return WELL

    async def look_at_purge() -> Finding:
        if "purge" in crashed:
            return Finding(Health.UNHEALTHY, f"nothing is purged any more: {crashed['purge']}; restart")
        return Finding(Health.DEGRADED, f"it is held up: {purge.trouble}") if purge.trouble else WELL

    async def look_at_credentials() -> Finding:
        if "credentials" in crashed:
            return Finding(
                Health.UNHEALTHY, f"changes are not seen any more: {crashed['credentials']}; restart"
            )
        troubles = authentication.list_troubles()
        if not troubles:
            return WELL
        return Finding(Health.DEGRADED, f"what was read last stays: {'; '.join(troubles)}")

    async def look_at_agents() -> Finding:
        unavailable = statuses.unavailable
        if not unavailable:
            return WELL
        named = [f"{agent_id}: {why}" for agent_id, why in list(unavailable.items())[:NAMED_AGENTS]]
        return Finding(Health.DEGRADED, f"{len(unavailable)} cannot be asked: {'; '.join(named)}")

    return {
        "store": look_at_store,
        "sessions": look_at_sessions,
        "expiry": look_at_expiry,
        "purge": look_at_purge,
        "credentials": look_at_credentials,
        "agents": look_at_agents,
    }
