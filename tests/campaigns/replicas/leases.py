"""What becomes of the leases of servers that were killed."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final

import psycopg

LOOK_SECONDS: Final = 0.1
_HELD: Final = "SELECT holder::text, count(*) FROM deliveries WHERE holder = ANY(%s::uuid[]) GROUP BY holder"


@dataclass
class Death:
    """When a server died, by the loop's clock; the leases that were seen with it since, and until when."""

    at_s: float
    most: int = 0
    held_until_s: float = 0.0

    @property
    def back_s(self) -> float:
        """After how long its last lease was back."""
        return max(0.0, self.held_until_s - self.at_s)


@dataclass
class Leases:
    """Looks again and again which leases dead servers still have."""

    url: str
    deaths: dict[str, Death] = field(default_factory=dict)

    def note_death(self, replica_id: str) -> None:
        """Is told that a server was killed."""
        self.deaths[replica_id] = Death(time.monotonic())

    async def watch(self) -> None:
        """Looks until cancelled."""
        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as link:
            while True:
                held = await (await link.execute(_HELD, [list(self.deaths)])).fetchall()
                now_s = time.monotonic()
                for replica_id, count in held:
                    death = self.deaths[replica_id]
                    death.most = max(death.most, count)
                    death.held_until_s = now_s
                await asyncio.sleep(LOOK_SECONDS)

    def late(self, seconds: float) -> list[str]:
        """Those that were not back in time."""
        return [
            f"leases of the dead server {replica_id} were back after {death.back_s:.1f} s only"
            for replica_id, death in self.deaths.items()
            if death.back_s > seconds
        ]

    def __str__(self) -> str:
        held = [death for death in self.deaths.values() if death.most]
        greatest = max((death.back_s for death in held), default=0.0)
        return (
            f"{sum(death.most for death in held)} leases at {len(held)} of {len(self.deaths)} dead servers, "
            f"back after {greatest:.1f} s at most"
        )
