"""The service's metrics, by name. docs/metrics.md tells what they mean."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Final

import structlog
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.samples import Sample

from server.telemetry.instruments import BoundedLabel, Counter, Family, Gauge, Histogram
from server.telemetry.telemetry import Probe, Telemetry
from server.version import VERSION

MAX_AGENTS: Final = 100
"""How many agents have series of their own: those that are met first."""

PROBE_SECONDS: Final = 2.0
"""How long a probe may take before its gauges are left out."""

DURATIONS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""The buckets that OpenTelemetry advises for the durations of calls and requests."""

REPLIES: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 900)
SHORT: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)

HTTP_METHODS: Final = frozenset(
    ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
)
OTHER_METHOD: Final = "_OTHER"

log = structlog.get_logger()


class Metrics(Telemetry):
    """Takes note of what it is told, for the scrapes of Prometheus."""

    is_on = True

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        """`now_s` is a clock that is never set back."""
        self.begin = now_s  # type: ignore[method-assign] # one call fewer each time
        self._now_s = now_s
        self._agents = BoundedLabel(MAX_AGENTS)
        self._probes: list[Probe] = []
        self._is_complete = True
        self._calls = Histogram(
            "rpc_server_call_duration_seconds",
            "How long calls took, also those within the process, until their last answer.",
            ("rpc_method", "rpc_response_status_code"),
            DURATIONS,
        )
        self._requests = Histogram(
            "http_server_request_duration_seconds",
            "How long HTTP requests took, from their head to the last byte of the answer.",
            ("http_request_method", "http_route", "http_response_status_code"),
            DURATIONS,
        )
        self._refusals = Counter("eliza_refusals", "Calls that failed, by the error's reason.", ["reason"])
        self._attempts = Counter(
            "eliza_attempts",
            "Attempts at a reply, by the agent and what came of them.",
            ("agent_kind", "agent_id", "outcome"),
        )
        self._closed = Counter("eliza_deliveries_closed", "Deliveries that ended, and how.", ["state"])
        self._first_chunks = Histogram(
            "eliza_first_chunk_seconds",
            "How long after its message the first piece of a reply came.",
            ["agent_id"],
            REPLIES,
        )
        self._replies = Histogram(
            "eliza_reply_seconds",
            "How long after its message a reply was stored.",
            ["agent_id"],
            REPLIES,
        )
        self._group_sizes = Histogram(
            "eliza_write_group_size", "How many writes went into one transaction.", (), SIZES
        )
        self._group_seconds = Histogram(
            "eliza_write_group_seconds", "How long a transaction of writes took, with its commit.", (), SHORT
        )
        self._lags = Histogram(
            "eliza_event_loop_lag_seconds", "How late the event loop came to a timer.", (), SHORT
        )
        self._build = Gauge("eliza_build_info", "The version; always 1.", ["version"])
        self._build.values[VERSION,] = 1
        self._gauges = {gauge.name: gauge for gauge in _make_gauges()}
        self._families: tuple[Family, ...] = (
            *(self._calls, self._requests, self._refusals, self._attempts, self._closed),
            *(self._first_chunks, self._replies, self._group_sizes, self._group_seconds, self._lags),
            *(self._build, *self._gauges.values()),
        )

    def end_call(self, method: str, status: str, begun_s: float) -> None:
        self._calls.observe(self._now_s() - begun_s, method[1:], status)

    def count_refusal(self, reason: str) -> None:
        self._refusals.add(reason)

    def end_request(self, method: str, route: str, status: int, begun_s: float) -> None:
        if method not in HTTP_METHODS:
            method = OTHER_METHOD
        # A request whose head cannot be read has no beginning.
        taken_s = self._now_s() - begun_s if begun_s else 0.0
        self._requests.observe(taken_s, method, route, str(status))

    def end_group(self, size: int, taken_s: float) -> None:
        self._group_sizes.observe(size)
        self._group_seconds.observe(taken_s)

    def end_attempt(self, agent_kind: str, agent_id: str, outcome: str) -> None:
        self._attempts.add(agent_kind, self._agents.of(agent_id), outcome)

    def close_deliveries(self, state: str, count: int = 1) -> None:
        self._closed.add(state, count=count)

    def note_first_chunk(self, agent_id: str, since_s: float) -> None:
        self._first_chunks.observe(since_s, self._agents.of(agent_id))

    def note_reply(self, agent_id: str, since_s: float) -> None:
        self._replies.observe(since_s, self._agents.of(agent_id))

    def note_loop_lag(self, lag_s: float) -> None:
        self._lags.observe(lag_s)

    def add_probe(self, probe: Probe) -> None:
        self._probes.append(probe)

    async def read(self) -> list[Family]:
        """All metrics, with the gauges as they are now. A gauge that cannot be read is left out."""
        for gauge in self._gauges.values():
            gauge.values.clear()
        is_complete = True
        for probe in self._probes:
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    for reading in await probe():
                        self._gauges[reading.name].values[reading.labels] = reading.value
            except Exception as error:  # noqa: BLE001 - a scrape tells what it can, whatever is amiss
                is_complete = False
                if self._is_complete:
                    log.warning("some metrics cannot be read", cause=repr(error))
        self._is_complete = is_complete
        return [*self._families, *map(_Process, ProcessCollector(registry=None).collect())]


class _Process:
    """A metric of the process, by the library."""

    def __init__(self, metric: Metric) -> None:
        self.name, self.text, self.kind = metric.name, metric.documentation, metric.type
        self._samples = metric.samples

    def samples(self) -> Iterator[Sample]:
        yield from self._samples


def _make_gauges() -> list[Gauge]:
    """The metrics that probes read."""
    return [
        Gauge("eliza_open_calls", "Calls under way.", ()),
        Gauge("eliza_open_streams", "Streams open: of clients, or of workers and other APIs.", ["kind"]),
        Gauge("eliza_open_requests", "HTTP requests that wait or are worked on.", ()),
        Gauge("eliza_open_connections", "Connections of HTTP and WebSockets.", ()),
        Gauge("eliza_open_sockets", "Socket.IO sockets.", ()),
        Gauge("eliza_deliveries_open", "Deliveries that wait, or that an agent has in hand.", ["state"]),
        Gauge("eliza_delivery_oldest_age_seconds", "How old the oldest open delivery is; 0: none.", ()),
        Gauge("eliza_live_sessions", "Sessions that have not expired.", ()),
        Gauge("eliza_expiring_sessions", "Live sessions whose end has been announced.", ()),
        Gauge("eliza_expiry_lag_seconds", "How long the earliest deadline is overdue.", ()),
        Gauge("eliza_store_bytes", "The size of the store's files.", ["part"]),
        Gauge("eliza_store_free_bytes", "The space left where the store is.", ()),
        Gauge("eliza_last_run_timestamp_seconds", "When the last one ended; 0: none did.", ["command"]),
        Gauge("eliza_last_run_good", "Whether that ended well; 1 where there was none.", ["command"]),
    ]
