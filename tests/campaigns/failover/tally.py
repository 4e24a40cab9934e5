"""What a campaign came to: what was acknowledged, compared with what is in the logs of the store."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from server.domain.log import message_of
from server.domain.sessions import Session
from server.store.postgres.check import problems
from server.store.postgres.place import Place
from server.store.postgres.store import PostgresStore
from tests.store.conformance.common import history


@dataclass
class Tally:
    """What was told and what is there.

    `lost`: acknowledged and not there; `doubled`: there more than once; `ghosts`: refused and there; `gaps`:
    sessions whose log has not every sequence. `unknown`: of which nobody was told how they ended.
    `troubles`: what was done to the database, by kind. `pauses_s`: from each trouble to the first new
    acknowledgement.
    """

    seed: int
    troubles: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    lost: int = 0
    doubled: int = 0
    gaps: int = 0
    ghosts: int = 0
    problems: list[str] = field(default_factory=list)
    pauses_s: list[float] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not (self.lost or self.doubled or self.gaps or self.ghosts or self.problems)

    def __str__(self) -> str:
        return "\n".join(
            [
                f"seed {self.seed}: {told(self.troubles)}",
                f"acknowledged {self.acknowledged}, refused {self.refused}, unknown {self.unknown}",
                f"lost {self.lost}, doubled {self.doubled}, gaps {self.gaps}, ghosts {self.ghosts}",
                spread("the first new acknowledgement", self.pauses_s),
                *self.problems,
            ]
        )


def told(counts: Counter[str]) -> str:
    """Counts for people, by name."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def spread(what: str, seconds: Sequence[float]) -> str:
    """How long something took, for people: each where there are few."""
    if not seconds:
        return f"{what}: never"
    each = ": " + ", ".join(f"{one:.1f}" for one in seconds) if len(seconds) <= 25 else ""
    return (
        f"{what} came after {statistics.median(seconds):.2f} s in the median, "
        f"{max(seconds):.2f} s at most{each}"
    )


async def count(
    url: str, many: list[Session], acknowledged: dict[str, tuple[str, int]], refused: set[str], tally: Tally
) -> None:
    """Compares what was told with the logs. `acknowledged`: by content, the session and the sequence."""
    store = await PostgresStore.open(Place(url))
    there: dict[str, tuple[str, int]] = {}
    met: Counter[str] = Counter()
    for one in many:
        log = await history(store, one)
        tally.gaps += [entry.sequence for entry in log] != list(range(1, len(log) + 1))
        for entry in log:
            content = message_of(entry).content
            met[content] += 1
            there[content] = one.id, entry.sequence
    await store.close()
    tally.acknowledged, tally.refused = len(acknowledged), len(refused)
    tally.lost = sum(there.get(content) != place for content, place in acknowledged.items())
    tally.doubled = sum(copies > 1 for copies in met.values())
    tally.ghosts = len(refused & there.keys())
    with Place(url).connect_now("check") as link:
        tally.problems = list(problems(link))
