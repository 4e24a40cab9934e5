"""GetOverview over gRPC: what an operator looks at first, without Prometheus."""

import time

from google.protobuf.timestamp_pb2 import Timestamp

from eliza.sessions.v1 import admin_service_pb2 as pb
from eliza.sessions.v1.session_service_pb2 import GetSessionRequest
from tests.service.admin.asking import SECONDS, admin
from tests.service.agents.worker import Worker, stream_agent
from tests.support.clients import create, fails, send
from tests.support.service import UNKNOWN, Serve, Start
from tests.support.waiting import until


def overview(service: Serve, **fields: object) -> pb.GetOverviewResponse:
    answer: pb.GetOverviewResponse = admin(service).GetOverview(
        pb.GetOverviewRequest(**fields), timeout=SECONDS
    )
    return answer


def test_what_happens_is_in_the_figures_at_once(start: Start) -> None:
    service = start("--no-rest")
    before = overview(service)
    assert (before.now.messages_per_second, before.oldest_delivery_seconds) == (0, 0)
    assert not before.now.HasField("reply_p50_ms")
    agent_id = stream_agent(service)
    sessions = [create(service, agent_id).session_id for _ in range(3)]
    for session_id in sessions:
        send(service, session_id, "hello")
    with Worker(service.channel, agent_id) as worker:
        given = worker.next()
        worker.chunk(given, "He")
        worker.answer(given, "Hello")
        for _ in range(2):
            fails(
                lambda: service.sessions.GetSession(GetSessionRequest(session_id=UNKNOWN), timeout=10),
                "SESSION_NOT_FOUND",
            )

        def seen() -> pb.GetOverviewResponse | None:
            found = overview(service)
            now = found.now
            is_there = (now.open_deliveries, now.live_sessions, now.open_streams) == (2, 3, 1)
            return found if is_there and now.HasField("reply_p50_ms") else None

        found = until(seen, "the figures")
    now = found.now
    assert now.messages_per_second > now.replies_per_second > 0
    assert now.refusals_per_second > 0
    assert 0 < now.reply_p50_ms <= now.reply_p95_ms < 20_000
    assert 0 < now.first_chunk_p50_ms <= now.first_chunk_p95_ms < 20_000
    assert now.store_bytes > 0
    assert now.event_loop_lag_ms >= 0
    assert found.refusals["SESSION_NOT_FOUND"] == 2
    assert found.oldest_delivery_seconds > 0
    assert abs(now.at.ToMilliseconds() / 1000 - time.time()) < 60
    assert found.started_at.ToMilliseconds() <= now.at.ToMilliseconds()


def test_a_service_without_a_console_keeps_no_figures(start: Start) -> None:
    service = start("--no-rest", CONSOLE="off")
    found = overview(service)
    assert found.HasField("started_at")
    assert not found.HasField("now")
    assert list(found.points) == []


def test_an_open_service_that_others_can_reach_keeps_no_figures(start: Start) -> None:
    service = start("--no-rest", GRPC_ADDRESS="0.0.0.0:0", ALLOW_OPEN="true")
    assert not overview(service).HasField("now")


def test_figures_are_kept_beside_metrics(start: Start) -> None:
    service = start("--no-rest", METRICS_ADDRESS="127.0.0.1:0")
    session_id = create(service).session_id
    send(service, session_id, "hello")
    until(lambda: overview(service).now.replies_per_second > 0, "the reply")


def test_only_what_came_after_an_instant_is_told(service: Serve) -> None:
    later = Timestamp(seconds=int(time.time()) + 3600)
    assert list(overview(service, after=later).points) == []
