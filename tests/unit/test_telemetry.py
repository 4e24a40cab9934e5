"""The instruments, what a scrape makes of them, and what nobody listens to."""

import asyncio
import math
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as TheirHistogram
from prometheus_client.parser import text_string_to_metric_families

from server.telemetry import metrics as defined
from server.telemetry.instruments import OTHER, BoundedLabel, Histogram
from server.telemetry.metrics import MAX_AGENTS, Metrics
from server.telemetry.telemetry import OFF, Reading, Telemetry
from server.telemetry.text import PIECE, write_families
from server.version import VERSION

GET = "/eliza.sessions.v1.SessionService/GetSession"


class Time:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def metrics(time: Time) -> Metrics:
    return Metrics(time)


async def scrape(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """The samples of a scrape, as Prometheus would read them."""
    text = (await write_families(await metrics.read())).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, f"{key} comes twice"
            found[key] = sample.value
    return found


def labels(**named: str) -> frozenset[tuple[str, str]]:
    return frozenset(named.items())


async def test_a_call_counts_for_its_method_and_status_and_in_one_bucket(
    metrics: Metrics, time: Time
) -> None:
    for taken_s, status in ((0.004, "OK"), (0.005, "OK"), (0.03, "OK"), (99, "OK"), (0.1, "NOT_FOUND")):
        begun_s = metrics.begin()
        time.now_s += taken_s
        metrics.end_call(GET, status, begun_s)
    found = await scrape(metrics)
    name, series = (
        "rpc_server_call_duration_seconds",
        {
            "rpc_method": "eliza.sessions.v1.SessionService/GetSession",
            "rpc_response_status_code": "OK",
        },
    )
    counts = {
        le: found[f"{name}_bucket", labels(**series, le=le)] for le in ("0.005", "0.025", "0.05", "10.0")
    }
    assert counts == {"0.005": 2, "0.025": 2, "0.05": 3, "10.0": 3}
    assert found[f"{name}_bucket", labels(**series, le="+Inf")] == 4
    assert found[f"{name}_count", labels(**series)] == 4
    assert found[f"{name}_sum", labels(**series)] == pytest.approx(99.039)
    assert found[f"{name}_count", labels(**{**series, "rpc_response_status_code": "NOT_FOUND"})] == 1


async def test_a_request_has_a_route_and_a_method_that_is_known(metrics: Metrics, time: Time) -> None:
    begun_s = metrics.begin()
    time.now_s += 0.2
    metrics.end_request("GET", "/api/messaging/sessions", 200, begun_s)
    metrics.end_request("BREW", "", 405, begun_s)
    metrics.end_request("", "", 400, 0.0)
    found = await scrape(metrics)
    name = "http_server_request_duration_seconds"
    series = {"http_route": "", "http_request_method": "_OTHER"}
    assert found[f"{name}_sum", labels(**series, http_response_status_code="405")] == pytest.approx(0.2)
    assert found[f"{name}_sum", labels(**series, http_response_status_code="400")] == 0
    assert (
        found[
            f"{name}_count",
            labels(
                http_route="/api/messaging/sessions",
                http_request_method="GET",
                http_response_status_code="200",
            ),
        ]
        == 1
    )


async def test_agents_beyond_the_first_ones_share_a_series(metrics: Metrics) -> None:
    for number in range(MAX_AGENTS + 5):
        metrics.end_attempt("webhook", f"agent-{number}", "answered")
    metrics.end_attempt("webhook", "agent-0", "answered")
    metrics.note_reply(f"agent-{MAX_AGENTS}", 3.0)
    found = await scrape(metrics)

    def attempts(agent_id: str) -> float:
        return found[
            "eliza_attempts_total", labels(agent_kind="webhook", agent_id=agent_id, outcome="answered")
        ]

    assert attempts("agent-0") == 2
    assert attempts(OTHER) == 5
    assert sum(name == "eliza_attempts_total" for name, _ in found) == MAX_AGENTS + 1
    assert found["eliza_reply_seconds_count", labels(agent_id=OTHER)] == 1


async def test_gauges_are_read_at_each_scrape_and_one_that_fails_is_left_out(metrics: Metrics) -> None:
    values: list[float] = [3.0]

    async def read() -> list[Reading]:
        return [Reading("eliza_open_calls", values[0])]

    async def fail() -> list[Reading]:
        raise OSError("the disk is gone")

    metrics.add_probe(fail)
    metrics.add_probe(read)
    assert (await scrape(metrics))["eliza_open_calls", labels()] == 3
    values[0] = 4
    found = await scrape(metrics)
    assert found["eliza_open_calls", labels()] == 4
    assert found["eliza_build_info", labels(version=VERSION)] == 1
    assert not any(name == "eliza_live_sessions" for name, _ in found)


async def test_a_probe_that_hangs_holds_up_no_scrape_for_long(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang() -> list[Reading]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(defined, "PROBE_SECONDS", 0.01)
    metrics.add_probe(hang)
    async with asyncio.timeout(5):
        assert await scrape(metrics)


async def test_a_scrape_lets_others_go_on_and_each_series_is_of_one_moment(metrics: Metrics) -> None:
    """While the text is written more is observed, also in new series."""
    for number in range(20):
        metrics.end_call(f"/s/M{number}", "OK", metrics.begin())
    turns = 0

    async def go_on() -> None:
        nonlocal turns
        while True:
            turns += 1
            metrics.end_call(f"/s/M{turns % 40}", "OK", metrics.begin())
            await asyncio.sleep(0)

    others = asyncio.create_task(go_on())
    found = await scrape(metrics)
    others.cancel()
    assert turns >= len(found) / PIECE / 2
    for (name, series), value in found.items():
        if name == "rpc_server_call_duration_seconds_count":
            assert found["rpc_server_call_duration_seconds_bucket", series | {("le", "+Inf")}] == value


async def test_pieces_make_the_text_that_the_library_would_write() -> None:
    registry = CollectorRegistry()
    theirs = TheirHistogram(
        "one", "Some \\ text\nof two lines.", ["a"], registry=registry, buckets=(0.1, 1, 2.5)
    )
    ours = Histogram("one", "Some \\ text\nof two lines.", ["a"], (0.1, 1, 2.5))
    for number in range(PIECE):
        for value in (0.05, 0.1, 1.7, 3):
            theirs.labels(f'agent "{number}"').observe(value)
            ours.observe(value, f'agent "{number}"')
    text = generate_latest(registry)
    expected = text[: text.index(b"# HELP one_created")]
    assert await write_families([ours]) == expected


def test_a_bounded_label_keeps_the_values_that_it_knows() -> None:
    label = BoundedLabel(2)
    assert [label.of(value) for value in "abcab"] == ["a", "b", OTHER, "a", "b"]


def methods() -> Iterator[str]:
    return (name for name in vars(Telemetry) if not name.startswith("_") and name != "is_on")


def test_the_metrics_take_note_of_all_that_telemetry_tells(metrics: Metrics) -> None:
    assert {name for name in methods() if getattr(metrics, name) != getattr(Telemetry, name)} == set(
        methods()
    )
    # A message is counted as a call, and once it is closed.
    not_noted = {"begin", "note_message"}
    missing = [name for name in methods() if name not in not_noted and name not in vars(Metrics)]
    assert not missing, "they do nothing"


def test_without_listeners_nothing_is_kept_and_no_clock_is_read() -> None:
    assert OFF.begin() == 0.0
    OFF.end_call(GET, "OK", OFF.begin())
    OFF.end_attempt("echo", "agent", "answered")
    assert not OFF.is_on
    assert vars(OFF) == {}


@pytest.mark.parametrize("bounds", [defined.DURATIONS, defined.REPLIES, defined.SHORT, defined.SIZES])
def test_buckets_go_up(bounds: tuple[float, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))
    assert math.inf not in bounds
