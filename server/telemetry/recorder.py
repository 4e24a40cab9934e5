"""The figures of the last hour, kept in memory for the operator's console: it needs no Prometheus.

What happens is counted where it is told, without a lock; a point is made of the counts every ten seconds.
"""

import asyncio
import time
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import structlog

from server.telemetry.telemetry import OFF, Probe, Telemetry
from server.telemetry.times import Times

POINT_SECONDS: Final = 10.0
MAX_POINTS: Final = 360
"""How often a point is made, and how many are kept: those of the last hour."""

AGENT_SECONDS: Final = 1800.0
"""How long the times of each agent are counted before the next count begins; the last two are told of."""

MAX_AGENTS: Final = 1000
"""Of how many agents times are kept: those that replied last."""

TICK_SECONDS: Final = 0.1
"""How often the event loop is asked whether it is late."""

PROBE_SECONDS: Final = 2.0
"""How long a gauge may take before it is left out."""

FRESH_SECONDS: Final = 1.0
"""How long gauges are good: many consoles cost as much as one."""

ANSWERED: Final = "answered"

log = structlog.get_logger()


class Gauges(NamedTuple):
    """How things stand at one moment; sizes are in bytes, ages in seconds."""

    open_deliveries: float = 0
    live_sessions: float = 0
    expiring_sessions: float = 0
    open_streams: float = 0
    store_bytes: float = 0
    oldest_delivery_s: float = 0.0
    expiry_lag_s: float = 0.0


class Figures(NamedTuple):
    """What happened in some time: rates by the second, and times in ms, None where there are none."""

    messages: float = 0.0
    replies: float = 0.0
    refusals: float = 0.0
    first_chunk_p50_ms: float | None = None
    first_chunk_p95_ms: float | None = None
    reply_p50_ms: float | None = None
    reply_p95_ms: float | None = None
    lag_ms: float = 0.0


class Point(NamedTuple):
    """What happened until an instant (in ms of the machine's clock), and how things stood then."""

    at_ms: int
    figures: Figures
    gauges: Gauges


class AgentTimes(NamedTuple):
    """The 95th percentiles of an agent's times in ms; None where there are none."""

    first_chunk_p95_ms: float | None = None
    reply_p95_ms: float | None = None


@dataclass(slots=True)
class _Interval:
    """What happened since its begin, in seconds of the clock that is never set back."""

    begun_s: float
    messages: int = 0
    replies: int = 0
    refusals: int = 0
    lag_s: float = 0.0
    first_chunks: Times = field(default_factory=Times)
    reply_times: Times = field(default_factory=Times)


class _Agent:
    """The times of an agent in the present half hour, and in the one before."""

    __slots__ = ("begun_s", "first_chunks", "old_first_chunks", "old_replies", "replies")

    def __init__(self, now_s: float) -> None:
        self.begun_s = now_s
        self.first_chunks, self.replies = Times(), Times()
        self.old_first_chunks, self.old_replies = Times(), Times()

    def turn(self, now_s: float) -> None:
        """Begins anew where it is time to."""
        if now_s - self.begun_s < AGENT_SECONDS:
            return
        is_recent = now_s - self.begun_s < 2 * AGENT_SECONDS
        self.old_first_chunks = self.first_chunks if is_recent else Times()
        self.old_replies = self.replies if is_recent else Times()
        self.first_chunks, self.replies = Times(), Times()
        self.begun_s = now_s


class Recorder(Telemetry):
    """Keeps figures, and passes all that it is told on to another telemetry.

    Its methods are called on the event loop, and so is `run`; they need no locks.
    """

    is_on = True

    def __init__(
        self,
        inner: Telemetry = OFF,
        monotonic: Callable[[], float] = time.monotonic,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """`now_s` tells the machine's time, `monotonic` is never set back."""
        # What is not recorded costs no more than without a recorder.
        self.begin = inner.begin  # type: ignore[method-assign]
        self.end_call = inner.end_call  # type: ignore[method-assign]
        self.end_request = inner.end_request  # type: ignore[method-assign]
        self.end_group = inner.end_group  # type: ignore[method-assign]
        self.end_attempt = inner.end_attempt  # type: ignore[method-assign]
        self._inner = inner
        self._monotonic = monotonic
        self._now_s = now_s
        self._probes: list[Probe] = []
        self._interval = _Interval(monotonic())
        self._last = _Interval(monotonic())
        self._agents: OrderedDict[str, _Agent] = OrderedDict()
        self._gauges = Gauges()
        self._gauges_s = float("-inf")
        self._reading = asyncio.Lock()
        self._is_complete = True
        self.points: deque[Point] = deque(maxlen=MAX_POINTS)
        self._refusals: Counter[str] = Counter()

    @property
    def refusals(self) -> Mapping[str, int]:
        """How many calls have failed since the start, by the reason."""
        return self._refusals

    def count_refusal(self, reason: str) -> None:
        self._interval.refusals += 1
        self._refusals[reason] += 1
        self._inner.count_refusal(reason)

    def close_deliveries(self, state: str, count: int = 1) -> None:
        if state == ANSWERED:
            self._interval.replies += count
        self._inner.close_deliveries(state, count)

    def note_message(self) -> None:
        self._interval.messages += 1
        self._inner.note_message()

    def note_first_chunk(self, agent_id: str, since_s: float) -> None:
        self._interval.first_chunks.add(since_s)
        self._agent(agent_id).first_chunks.add(since_s)
        self._inner.note_first_chunk(agent_id, since_s)

    def note_reply(self, agent_id: str, since_s: float) -> None:
        self._interval.reply_times.add(since_s)
        self._agent(agent_id).replies.add(since_s)
        self._inner.note_reply(agent_id, since_s)

    def note_loop_lag(self, lag_s: float) -> None:
        self._interval.lag_s = max(self._interval.lag_s, lag_s)

    def add_probe(self, probe: Probe) -> None:
        self._probes.append(probe)
        self._inner.add_probe(probe)

    async def run(self, on_point: Callable[[], Awaitable[object]]) -> None:
        """Makes points, and watches over the event loop, until cancelled. `on_point` is told of each."""
        loop_s = asyncio.get_running_loop().time
        while True:
            due_s = loop_s() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            self.note_loop_lag(max(0.0, loop_s() - due_s))
            if self._monotonic() - self._interval.begun_s >= POINT_SECONDS:
                await self.make_point()
                await on_point()

    async def make_point(self) -> None:
        """Makes a point of what has happened since the last one."""
        ended, now_s = self._interval, self._monotonic()
        self._interval = _Interval(now_s)
        self._last = ended
        figures = _figures_of([ended], now_s)
        gauges, at_ms = await self.read_gauges(), round(self._now_s() * 1000)
        # The clock was set back: points are told by their instants, in order, and new ones must be.
        while self.points and self.points[-1].at_ms >= at_ms:
            self.points.pop()
        self.points.append(Point(at_ms, figures, gauges))

    async def read_now(self) -> Point:
        """How things stand now, and what happened since the point before the last one."""
        figures = _figures_of([self._last, self._interval], self._monotonic())
        return Point(round(self._now_s() * 1000), figures, await self.read_gauges())

    def agent_times(self, agent_id: str) -> AgentTimes:
        """How long an agent has taken in the last 30 to 60 minutes."""
        agent = self._agents.get(agent_id)
        if agent is None:
            return AgentTimes()
        agent.turn(self._monotonic())
        both = []
        for present, past in (
            (agent.first_chunks, agent.old_first_chunks),
            (agent.replies, agent.old_replies),
        ):
            times = Times()
            times.add_all(present)
            times.add_all(past)
            both.append(times.percentile_ms(0.95))
        return AgentTimes(*both)

    async def read_gauges(self) -> Gauges:
        """How things stand, no older than FRESH_SECONDS. What cannot be read is as it was last."""
        async with self._reading:
            if self._monotonic() - self._gauges_s < FRESH_SECONDS:
                return self._gauges
            values: defaultdict[str, float] = defaultdict(float)
            is_complete = True
            for probe in self._probes:
                try:
                    async with asyncio.timeout(PROBE_SECONDS):
                        for reading in await probe():
                            values[reading.name] += reading.value
                except Exception:
                    is_complete = False
                    if self._is_complete:
                        log.exception("a figure cannot be read", error_id=uuid.uuid4().hex)
            self._is_complete = is_complete
            known = {name: values[gauge] for gauge, name in _GAUGES.items() if gauge in values}
            self._gauges, self._gauges_s = self._gauges._replace(**known), self._monotonic()
            return self._gauges

    def _agent(self, agent_id: str) -> _Agent:
        """The times of an agent. Where there are too many, those that replied longest ago are forgotten."""
        agent = self._agents.get(agent_id)
        if agent is None:
            agent = self._agents[agent_id] = _Agent(self._monotonic())
            if len(self._agents) > MAX_AGENTS:
                self._agents.popitem(last=False)
        else:
            self._agents.move_to_end(agent_id)
            agent.turn(self._monotonic())
        return agent


_GAUGES: Final = {
    "eliza_deliveries_open": "open_deliveries",
    "eliza_live_sessions": "live_sessions",
    "eliza_expiring_sessions": "expiring_sessions",
    "eliza_open_streams": "open_streams",
    "eliza_store_bytes": "store_bytes",
    "eliza_delivery_oldest_age_seconds": "oldest_delivery_s",
    "eliza_expiry_lag_seconds": "expiry_lag_s",
}
"""The gauges that are kept, all their series together."""


def _figures_of(intervals: list[_Interval], now_s: float) -> Figures:
    """What happened in intervals that follow one another, until now."""
    seconds = max(now_s - intervals[0].begun_s, 1.0)
    first_chunks, replies = Times(), Times()
    for one in intervals:
        first_chunks.add_all(one.first_chunks)
        replies.add_all(one.reply_times)
    return Figures(
        sum(one.messages for one in intervals) / seconds,
        sum(one.replies for one in intervals) / seconds,
        sum(one.refusals for one in intervals) / seconds,
        first_chunks.percentile_ms(0.5),
        first_chunks.percentile_ms(0.95),
        replies.percentile_ms(0.5),
        replies.percentile_ms(0.95),
        max(one.lag_s for one in intervals) * 1000,
    )
