"""Where the spans of a real service go: to a collector, from one process or two; and what happens without."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.docs.pages import example
from tests.service.traces.collector import Collector
from tests.service.traces.world import ATTEMPT, GET, REQUEST, SAMPLED, SEND, SPAN_ID, TRACE_ID
from tests.support.clients import command
from tests.support.realtime.programs import Program, free_address
from tests.support.service import HIDDEN_PACKAGES, UNKNOWN, Serve, Start
from tests.support.two_processes import TwoProcesses
from tests.support.waiting import PATIENCE_SECONDS, until

FREE = "127.0.0.1:0"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


def say(service: Serve) -> None:
    """Sends a message that is part of a trace, and waits for its reply."""
    url = f"{service.url}/{service.create()['sessionId']}/messages"
    body = {"content": "Hello!", "transport": "http"}
    answer = service.http.post(url, json=body, headers={"traceparent": SAMPLED}, timeout=PATIENCE_SECONDS)
    assert answer.status_code == 201, answer.text


def test_spans_come_to_the_collector_that_the_variables_name(start: Start, collector: Collector) -> None:
    service = start(TRACES="on", OTEL_SERVICE_NAME="of a test", **collector.variables)
    say(service)
    (request,) = until(lambda: collector.named(REQUEST), "the request's span")
    (call,) = until(lambda: collector.named(SEND), "the call's span")
    (attempt,) = until(lambda: collector.named(ATTEMPT), "the attempt's span")
    assert (request.trace_id, request.parent_id) == (TRACE_ID, SPAN_ID)
    assert (call.parent_id, attempt.parent_id) == (request.span_id, call.span_id)
    assert {span.service for span in collector.spans} == {"of a test"}


def test_a_facade_of_its_own_passes_the_trace_on(tmp_path: Path, collector: Collector) -> None:
    settings = {"TRACES": "on", **collector.variables}
    service = TwoProcesses(tmp_path, **settings)
    say(service)
    assert service.stop() == 0, service.log()
    (request,), (call,) = collector.named(REQUEST), collector.named(SEND)
    (attempt,) = collector.named(ATTEMPT)
    assert (request.trace_id, request.parent_id) == (TRACE_ID, SPAN_ID)
    assert (call.parent_id, attempt.parent_id) == (request.span_id, call.span_id)
    assert {span.service for span in collector.spans} == {"eliza-sessions"}


def test_the_last_spans_are_sent_at_the_end(tmp_path: Path, collector: Collector) -> None:
    late = {**collector.variables, "OTEL_BSP_SCHEDULE_DELAY": "3600000"}
    service = Serve(tmp_path, TRACES="on", **late)
    say(service)
    assert collector.spans == []
    assert service.stop() == 0, service.log()
    assert len(collector.named(SEND)) == len(collector.named(ATTEMPT)) == 1


@pytest.mark.parametrize("is_there", [True, False], ids=["stuck", "absent"])
def test_a_collector_that_does_not_answer_costs_no_call_and_no_more_than_the_grace(
    tmp_path: Path, is_there: bool
) -> None:
    with Collector(stuck=True) as collector:
        variables = collector.variables
        if not is_there:
            variables["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://{free_address()}"
        # A queue so small that it is full at once.
        small = {"OTEL_BSP_MAX_QUEUE_SIZE": "4", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2"}
        service = Serve(tmp_path, TRACES="on", SHUTDOWN_GRACE_SECONDS="2", **{**variables, **small})
        if is_there:
            for _ in range(10):
                say(service)
            assert collector.asked.wait(PATIENCE_SECONDS)
        begun_s = time.monotonic()
        for _ in range(20):
            say(service)
        assert time.monotonic() - begun_s < PATIENCE_SECONDS
        begun_s = time.monotonic()
        assert service.stop() == 0, service.log()
        # Without a bound it would be as long as an export may take, 10 s, or the SDK waits for one, 30 s. The
        # process needs a moment of its own to end.
        assert time.monotonic() - begun_s < 2 + 6
    assert "internal error" not in service.log()


@pytest.mark.parametrize("name", ["nobody's", "otlp,nobody's"])
def test_an_exporter_that_nobody_has_is_named_and_the_service_runs(start: Start, name: str) -> None:
    service = start(TRACES="on", OTEL_TRACES_EXPORTER=name)
    say(service)
    assert "nothing is traced" in service.log()
    assert "nobody's" in service.log()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "pigeon", "pigeon is none of the protocols"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "OTEL_BSP_"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(start: Start, variable: str, value: str, said: str) -> None:
    service = start(TRACES="on", **{variable: value})
    say(service)
    assert "nothing is traced" in service.log()
    assert said in service.log()


def test_without_the_extra_a_line_says_so_and_the_service_runs(tmp_path: Path, start: Start) -> None:
    hidden = tmp_path / "hidden" / "opentelemetry"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text('raise ImportError("hidden")\n')
    service = start(TRACES="on", PYTHONPATH=f"{hidden.parent}:{HIDDEN_PACKAGES}")
    say(service)
    assert "nothing is traced: TRACES needs the extra: pip install '.[otel]'" in service.log()


def test_nothing_of_it_is_imported_where_it_is_off(tmp_path: Path, start: Start) -> None:
    """The package is there, and would say so."""
    trap = tmp_path / "trap" / "opentelemetry"
    trap.mkdir(parents=True)
    (trap / "__init__.py").write_text('import sys\nprint("the trap has shut", file=sys.stderr)\n')
    service = start(PYTHONPATH=f"{trap.parent}:{HIDDEN_PACKAGES}")
    say(service)
    assert "the trap has shut" not in service.log()


def test_a_request_id_is_in_the_span_and_in_the_log(start: Start, tmp_path: Path) -> None:
    service = start(TRACES="on", OTEL_TRACES_EXPORTER="console", LOG_FORMAT="json")
    given = {"X-Request-Id": "of-this-test"}
    answer = service.http.get(f"{service.url}/{UNKNOWN}", headers=given, timeout=10)
    assert answer.headers["X-Request-Id"] == "of-this-test"
    fresh = service.http.get(f"{service.url}/{UNKNOWN}", timeout=10).headers["X-Request-Id"]
    printed = service.process.stdout
    service.process.terminate()
    text = printed.read().decode()
    for request_id in ("of-this-test", fresh):
        assert service.log().count(f'"request_id": "{request_id}"') == 1
        # The request's span, and the call's.
        assert text.count(f'"eliza.request_id": "{request_id}"') == 2
    assert GET in text


def test_the_page_says_how(tmp_path: Path, collector: Collector) -> None:
    install, line = example("traces").splitlines()
    assert install == "pip install '.[otel]'"
    words = line.split()
    variables = dict(word.split("=", 1) for word in words[:-2])
    assert words[-2:] == ["eliza-sessions", "serve"]
    assert variables["TRACES"] == "on"
    assert variables["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://127.0.0.1:4317"
    here = {**variables, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}"}
    with Program(command("serve"), tmp_path, GRPC_ADDRESS=FREE, REST_ADDRESS=FREE, **here) as program:
        assert program.addresses["rest"]
        assert program.stop() == 0
    # Its start has made a call of its own, for the agent that every store begins with, or none: it runs.
    assert "nothing is traced" not in program.log_path.read_text()
