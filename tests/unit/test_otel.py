"""Spans by OpenTelemetry: what they take of their callers, and their bounds."""

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode

from rest_facade.shapes.credentials import MAX_BYTES, add_trace
from server.telemetry.otel import MAX_DETAIL, MAX_LINKS, MAX_TEXT
from server.telemetry.traces import MAX_TRACESTATE, NO_TRACES, NOWHERE, TraceContext, read_text
from tests.service.traces.world import GROUP, SAMPLED, SEND, SPAN_ID, TRACE_ID, Memory, links


def test_a_trace_is_the_same_after_it_was_kept() -> None:
    for context in (NOWHERE, TraceContext(SAMPLED), TraceContext(SAMPLED, "a=1,b=2")):
        assert read_text(context.text) == context
    assert TraceContext(SAMPLED, "a=1").headers == (("traceparent", SAMPLED), ("tracestate", "a=1"))
    assert NOWHERE.headers == ()


def test_where_nothing_is_traced_no_object_is_made() -> None:
    spans = [NO_TRACES.start_call("/a/b", (), ""), NO_TRACES.start_attempt({}, "")]
    assert spans[0] is spans[1] is NO_TRACES.start_call("/c/d", (), "")
    assert spans[0].context is NOWHERE
    assert NO_TRACES.current() is None
    assert NO_TRACES.stored() == ""


def test_a_group_is_linked_to_so_many_spans_and_says_how_many_writes_it_had() -> None:
    memory = Memory()
    parents = []
    for _ in range(MAX_LINKS + 10):
        with memory.traces.start_call(f"/{SEND}", (), "r"):
            # Two writes of one call.
            parents += [memory.traces.current()] * 2
    memory.traces.end_group(parents, len(parents), 1_000, 2_000, has_failed=False)
    (group,) = memory.named(GROUP)
    assert len(group.links) == MAX_LINKS
    assert links(group) == {one.span_id for one in parents[: 2 * MAX_LINKS]}
    assert group.attributes["eliza.write_group.size"] == 2 * (MAX_LINKS + 10)
    assert (group.start_time, group.end_time) == (1_000, 2_000)
    assert group.status.status_code is StatusCode.UNSET


def test_a_group_that_failed_with_the_store_is_an_error() -> None:
    memory = Memory()
    with memory.traces.start_call(f"/{SEND}", (), "r"):
        parents = [memory.traces.current()]
    memory.traces.end_group(parents, 1, 1, 2, has_failed=True)
    assert memory.named(GROUP)[0].status.status_code is StatusCode.ERROR


def test_a_group_without_a_sampled_call_has_no_span() -> None:
    memory = Memory(ALWAYS_OFF)
    with memory.traces.start_call(f"/{SEND}", (), "r"):
        assert memory.traces.current() is None
        # The last bit says whether it is sampled.
        assert int(memory.traces.stored()[-2:], 16) % 2 == 0
    memory.traces.end_group([], 3, 1, 2, has_failed=False)
    assert memory.spans == []


def test_what_is_begun_within_a_span_is_a_part_of_it_and_what_comes_after_is_not() -> None:
    memory = Memory()
    call = memory.traces.start_call(f"/{SEND}", [("traceparent", SAMPLED)], "r")
    with call:
        memory.traces.start_agent_request("POST", "http://a/", "a", 80).end()
        memory.traces.note({"eliza.session_id": "s"})
    memory.traces.start_agent_request("GET", "http://a/", "a", 80).end("ConnectError")
    call.end("OK")
    (found,), (inside,), (after,) = memory.named(SEND), memory.named("POST"), memory.named("GET")
    assert inside.parent.span_id == found.context.span_id
    assert (f"{found.context.trace_id:032x}", f"{found.parent.span_id:016x}") == (TRACE_ID, SPAN_ID)
    assert found.attributes["eliza.session_id"] == "s"
    assert after.parent is None


def test_what_clients_and_agents_say_is_truncated() -> None:
    memory = Memory()
    span = memory.traces.start_request("BREW", "http", "/" + "p" * 5000, [(b"user-agent", b"u" * 5000)], "r")
    span.end("", 404)
    attempt = memory.traces.start_attempt({}, "")
    attempt.end("failed", "x" * 5000)
    request, failed = memory.spans
    assert (request.name, request.attributes["http.request.method"]) == ("HTTP", "_OTHER")
    assert len(request.attributes["url.path"]) == len(request.attributes["user_agent.original"]) == MAX_TEXT
    assert len(failed.status.description) == MAX_DETAIL


@pytest.mark.parametrize("status", [404, 503])
def test_a_status_of_an_agent_is_an_error_from_400_on(status: int) -> None:
    memory = Memory()
    span = memory.traces.start_agent_request("POST", "http://a/", "a", 80)
    span.note_status(status)
    span.end()
    span.end("late")
    (found,) = memory.spans
    assert found.attributes["error.type"] == str(status)
    assert found.status.status_code is StatusCode.ERROR


def test_several_headers_name_no_parent() -> None:
    memory = Memory()
    for headers in ([(b"traceparent", SAMPLED.encode())] * 2, [(b"tracestate", b"a=1")], []):
        memory.traces.start_request("GET", "http", "/", headers, "r").end("", 200)
    assert [span.parent for span in memory.spans] == [None] * 3


def test_a_tracestate_is_left_out_where_the_credentials_leave_no_room() -> None:
    trace = (("traceparent", SAMPLED), ("tracestate", "x" * MAX_TRACESTATE))
    small, large = (("x-api-key", "k"),), (("x-api-key", "k" * (MAX_BYTES - 100)),)
    assert add_trace(small, trace) == (*small, *trace)
    assert add_trace(large, trace) == (*large, trace[0])
    assert add_trace(small, ()) == small


def test_what_strangers_send_malformed_is_ignored_without_a_line(caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory()
    for pairs in (
        [("traceparent", SAMPLED), ("tracestate", "not a member, of a list")],
        [("traceparent", SAMPLED), ("tracestate", "a=1,a=2")],
        [("traceparent", SAMPLED), ("tracestate", ",".join(f"k{i}=v" for i in range(40)))],
        [("traceparent", SAMPLED + " " * 1000)],
    ):
        memory.traces.start_call(f"/{SEND}", pairs, "r").end("OK")
    assert len(memory.spans) == 4
    assert caplog.records == []
