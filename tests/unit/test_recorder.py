"""The figures of the last hour: counted, made into points, and bounded."""

import asyncio
import random
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.telemetry import recorder as module
from server.telemetry.recorder import (
    AGENT_SECONDS,
    FRESH_SECONDS,
    MAX_AGENTS,
    MAX_POINTS,
    POINT_SECONDS,
    AgentTimes,
    Recorder,
)
from server.telemetry.telemetry import OFF, Reading, Telemetry
from server.telemetry.times import BOUNDS, Times
from tests.support.waiting import eventually


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recorder(clock: Clock) -> Recorder:
    return Recorder(OFF, clock, lambda: clock.now + 1_000_000)


async def test_a_point_has_the_rates_of_its_ten_seconds(recorder: Recorder, clock: Clock) -> None:
    for _ in range(20):
        recorder.note_message()
    recorder.close_deliveries("answered", 5)
    recorder.close_deliveries("failed", 3)
    recorder.close_deliveries("ended", 7)
    recorder.count_refusal("SESSION_NOT_FOUND")
    recorder.note_loop_lag(0.25)
    recorder.note_loop_lag(0.01)
    clock.now += POINT_SECONDS
    await recorder.make_point()
    clock.now += POINT_SECONDS
    await recorder.make_point()
    first, second = recorder.points
    assert first.at_ms == 1_001_010_000
    assert first.figures[:3] == (2.0, 0.5, 0.1)
    assert first.figures.lag_ms == 250
    assert second.figures[:3] == (0, 0, 0)
    assert second.figures.reply_p50_ms is None
    assert recorder.refusals == {"SESSION_NOT_FOUND": 1}


async def test_what_has_just_happened_is_told_now(recorder: Recorder, clock: Clock) -> None:
    clock.now += 4
    for _ in range(8):
        recorder.note_message()
    assert (await recorder.read_now()).figures.messages == 2
    clock.now += POINT_SECONDS - 4
    await recorder.make_point()
    clock.now += 6
    # In the last 16 seconds.
    assert (await recorder.read_now()).figures.messages == 0.5
    clock.now += 4
    await recorder.make_point()
    clock.now += 5
    assert (await recorder.read_now()).figures.messages == 0


async def test_an_hour_is_kept(recorder: Recorder, clock: Clock) -> None:
    for _ in range(MAX_POINTS + 5):
        clock.now += POINT_SECONDS
        await recorder.make_point()
    assert len(recorder.points) == MAX_POINTS
    assert recorder.points[0].at_ms == round((1_001_000 + 6 * POINT_SECONDS) * 1000)


async def test_points_stay_in_order_where_the_clock_is_set_back() -> None:
    machine_s, clock = [5000.0], Clock()
    recorder = Recorder(OFF, clock, lambda: machine_s[0])
    for at_s in (5000, 5010, 5020, 5012, 5022):
        machine_s[0] = at_s
        clock.now += POINT_SECONDS
        await recorder.make_point()
    assert [point.at_ms for point in recorder.points] == [5_000_000, 5_010_000, 5_012_000, 5_022_000]


async def test_gauges_are_read_of_all_series_and_kept_for_a_moment(recorder: Recorder, clock: Clock) -> None:
    reads = 0

    async def probe() -> Iterable[Reading]:
        nonlocal reads
        reads += 1
        return [
            Reading("eliza_store_bytes", 100, ("data",)),
            Reading("eliza_store_bytes", 20, ("wal",)),
            Reading("eliza_live_sessions", 7),
            Reading("eliza_expiry_lag_seconds", 0.5),
            Reading("eliza_something_else", 9),
        ]

    recorder.add_probe(probe)
    gauges = [await recorder.read_gauges() for _ in range(3)]
    assert {(one.store_bytes, one.live_sessions, one.expiry_lag_s) for one in gauges} == {(120, 7, 0.5)}
    assert reads == 1
    clock.now += FRESH_SECONDS
    await asyncio.gather(*(recorder.read_gauges() for _ in range(5)))
    assert reads == 2


async def test_a_gauge_that_cannot_be_read_is_as_it_was_and_holds_up_no_other(
    recorder: Recorder, clock: Clock
) -> None:
    values = {"eliza_live_sessions": 7.0}

    async def broken() -> Iterable[Reading]:
        return [Reading("eliza_live_sessions", values["eliza_live_sessions"])]

    async def other() -> Iterable[Reading]:
        return [Reading("eliza_open_streams", clock.now)]

    recorder.add_probe(broken)
    recorder.add_probe(other)
    assert (await recorder.read_gauges())[:4] == (0, 7, 0, 1000)
    values.clear()
    clock.now += FRESH_SECONDS
    assert (await recorder.read_gauges())[:4] == (0, 7, 0, 1001)


async def test_a_gauge_that_hangs_is_left_out(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROBE_SECONDS", 0.01)

    async def hang() -> Iterable[Reading]:
        await asyncio.get_running_loop().create_future()
        return []

    recorder.add_probe(hang)
    assert (await recorder.read_gauges()).live_sessions == 0


def test_the_times_of_an_agent_are_those_of_the_last_half_hours(recorder: Recorder, clock: Clock) -> None:
    assert recorder.agent_times("a") == AgentTimes()
    recorder.note_reply("a", 1.0)
    recorder.note_first_chunk("a", 0.1)
    recorder.note_reply("b", 30.0)
    assert recorder.agent_times("a").reply_p95_ms == pytest.approx(1000, rel=0.2)
    assert recorder.agent_times("a").first_chunk_p95_ms == pytest.approx(100, rel=0.2)
    assert recorder.agent_times("b").first_chunk_p95_ms is None
    clock.now += AGENT_SECONDS
    for _ in range(100):
        recorder.note_reply("a", 5.0)
    assert recorder.agent_times("a").reply_p95_ms == pytest.approx(5000, rel=0.2)
    assert recorder.agent_times("a").first_chunk_p95_ms == pytest.approx(100, rel=0.2)
    clock.now += AGENT_SECONDS
    assert recorder.agent_times("a").first_chunk_p95_ms is None
    assert recorder.agent_times("a").reply_p95_ms == pytest.approx(5000, rel=0.2)
    clock.now += 2 * AGENT_SECONDS
    assert recorder.agent_times("a") == AgentTimes()


def test_agents_that_replied_longest_ago_are_forgotten(recorder: Recorder) -> None:
    for number in range(MAX_AGENTS):
        recorder.note_reply(f"{number}", 1.0)
    recorder.note_reply("0", 1.0)
    recorder.note_reply("one more", 1.0)
    assert recorder.agent_times("0") != AgentTimes()
    assert recorder.agent_times("1") == AgentTimes()


async def test_it_takes_no_more_memory_the_longer_it_runs(recorder: Recorder, clock: Clock) -> None:
    async def live(points: int) -> None:
        for number in range(points):
            for agent in range(0, MAX_AGENTS + 100, 50):
                recorder.note_reply(f"{agent + number % 50}", random.random())
            recorder.note_message()
            recorder.count_refusal("SESSION_NOT_FOUND")
            clock.now += POINT_SECONDS
            await recorder.make_point()

    await live(2 * MAX_POINTS)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    await live(2 * MAX_POINTS)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    # The same number of points and agents, whose lists were made before the tracing began.
    assert grown < 8_000_000


async def test_it_makes_points_and_tells_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POINT_SECONDS", 0.03)
    monkeypatch.setattr(module, "TICK_SECONDS", 0.01)
    told: list[int] = []
    recorder = Recorder()

    async def tell() -> None:
        told.append(len(recorder.points))

    running = asyncio.create_task(recorder.run(tell))
    await eventually(lambda: told == [1, 2, 3])
    running.cancel()


class Listening(Telemetry):
    """Notes what it is told."""

    is_on = True

    def __init__(self) -> None:
        self.told: list[object] = []

    def begin(self) -> float:
        return 5.0

    def end_call(self, method: str, status: str, begun_s: float) -> None:
        self.told.append(("end_call", method, status, begun_s))

    def count_refusal(self, reason: str) -> None:
        self.told.append(("count_refusal", reason))

    def end_request(self, method: str, route: str, status: int, begun_s: float) -> None:
        self.told.append(("end_request", method, route, status, begun_s))

    def end_group(self, size: int, taken_s: float) -> None:
        self.told.append(("end_group", size, taken_s))

    def end_attempt(self, agent_kind: str, agent_id: str, outcome: str) -> None:
        self.told.append(("end_attempt", agent_kind, agent_id, outcome))

    def close_deliveries(self, state: str, count: int = 1) -> None:
        self.told.append(("close_deliveries", state, count))

    def note_message(self) -> None:
        self.told.append(("note_message",))

    def note_first_chunk(self, agent_id: str, since_s: float) -> None:
        self.told.append(("note_first_chunk", agent_id, since_s))

    def note_reply(self, agent_id: str, since_s: float) -> None:
        self.told.append(("note_reply", agent_id, since_s))

    def add_probe(self, probe: object) -> None:
        self.told.append(("add_probe", probe))


def test_all_that_it_is_told_is_passed_on() -> None:
    inner = Listening()
    recorder = Recorder(inner)
    assert recorder.begin() == 5.0
    calls: list[tuple[object, ...]] = [
        ("end_call", "m", "OK", 1.0),
        ("count_refusal", "r"),
        ("end_request", "GET", "/", 200, 1.0),
        ("end_group", 3, 0.1),
        ("end_attempt", "echo", "a", "answered"),
        ("close_deliveries", "answered", 2),
        ("note_message",),
        ("note_first_chunk", "a", 0.1),
        ("note_reply", "a", 0.2),
        ("add_probe", len),
    ]
    for name, *arguments in calls:
        getattr(recorder, str(name))(*arguments)
    assert inner.told == calls
    # The event loop's lag is watched by each for itself.
    methods = {name for name, value in vars(Telemetry).items() if callable(value)}
    assert methods == {str(name) for name, *_ in calls} | {"begin", "note_loop_lag"}


@given(st.lists(st.floats(0.002, 3000), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 1.0]))
def test_a_percentile_is_a_fifth_off_at_most(seconds: list[float], share: float) -> None:
    times = Times()
    for one in seconds:
        times.add(one)
    rank = max(0, -(-len(seconds) * share // 1) - 1)
    true_ms = sorted(seconds)[int(rank)] * 1000
    found_ms = times.percentile_ms(share)
    assert found_ms is not None
    assert true_ms / 1.21 <= found_ms <= true_ms * 1.21


@pytest.mark.parametrize(("seconds", "most_ms"), [(0.0, 1.0), (-1.0, 1.0), (10**9, BOUNDS[-1] * 1000)])
def test_times_beyond_the_buckets_count(seconds: float, most_ms: float) -> None:
    times = Times()
    times.add(seconds)
    found_ms = times.percentile_ms(0.5)
    assert found_ms is not None
    assert 0 <= found_ms <= most_ms
