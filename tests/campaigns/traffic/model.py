"""What was acknowledged, and what does not fit."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from tests.campaigns.traffic.clients import Sent


@dataclass
class Findings:
    """What does not fit, a line each."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(vars(self).values())

    def add(self, others: "Findings") -> None:
        """Adds what does not fit elsewhere."""
        for name, lines in vars(others).items():
            getattr(self, name).extend(lines)

    def __str__(self) -> str:
        counts = ", ".join(f"{name.capitalize()}: {len(lines)}" for name, lines in vars(self).items())
        return "\n".join(
            [counts, *(f"  {name}: {line}" for name, lines in vars(self).items() for line in lines[:10])]
        )


@dataclass(frozen=True)
class Dropped:
    """A message whose connection was dropped without an answer."""

    begun_ms: int
    """When the attempt began, by the machine's clock."""
    ends: list[str]
    """How the last attempts have ended, this one included."""
    dropped_ms: float
    """When the connection was dropped: of several servers another may have stored it after that."""


@dataclass
class Model:
    """What was acknowledged, over all lives of the service."""

    sent: dict[str, dict[str, Sent]] = field(default_factory=lambda: defaultdict(dict))
    """By session, by content; the content is the request id, too."""
    created: dict[str, str] = field(default_factory=dict)
    """Session ids by mark, which is the request id."""
    deleted: set[str] = field(default_factory=set)
    kept: dict[str, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))
    """By session: the sequences and kinds of the entries that calls with a tag have made, all in order."""
    beats: Counter[str] = field(default_factory=Counter)
    """Acknowledged heartbeats by session."""
    tries: Counter[str] = field(default_factory=Counter)
    """Heartbeats that were tried by session."""
    findings: Findings = field(default_factory=Findings)

    @property
    def acknowledged(self) -> Counter[str]:
        return Counter(
            messages=sum(map(len, self.sent.values())),
            sessions=len(self.created),
            deletions=len(self.deleted),
            renewals_and_changes=sum(map(len, self.kept.values())),
            heartbeats=self.beats.total(),
        )
