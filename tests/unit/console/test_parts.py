"""Parts of pages: the calls that they make, what they write, and how they tell of errors."""

from typing import Any

import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from eliza.sessions import values
from eliza.sessions.v1.admin_service_pb2 import (
    GetOverviewRequest,
    GetOverviewResponse,
    GetSystemResponse,
    OverviewPoint,
)
from eliza.sessions.v1.session_service_pb2 import GetServiceStatusResponse
from rest_facade.console.render import respond_part, show_duration, show_instant, show_size
from tests.unit.console.asking import Asker, refuse

HEALTHY = GetServiceStatusResponse.HEALTH_HEALTHY
EVIL = "<script>alert(1)</script>\"'&"
NOW = 1_800_000_000_000
KEY = (("authorization", "Bearer es_admin_secret"),)


def test_a_part_is_asked_for_with_the_callers_credential_and_kept_by_nobody() -> None:
    asked: list[Any] = []

    def answer(_request: Any, metadata: Any) -> Any:
        asked.append(metadata)
        return GetServiceStatusResponse(health=HEALTHY, version="1.2.3", uptime_seconds=90_000)

    for metadata in ((), KEY):
        part = Asker(answer, metadata=metadata)("/console/parts/status")
        assert part.status_code == 200
        assert part.headers["Cache-Control"] == "no-store"
        assert part.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "1.2.3, up 1 d 1 h" in part.text
    assert asked == [(), KEY]


def test_who_may_not_know_more_sees_the_health_alone() -> None:
    status = GetServiceStatusResponse(health=HEALTHY, status_only=True)
    part = Asker(lambda *_: status)("/console/parts/status")
    assert "healthy" in part.text
    assert "up" not in part.text


@pytest.mark.parametrize(
    ("reason", "status", "told"),
    [
        ("UNAUTHENTICATED", 401, "needs a key"),
        ("PERMISSION_DENIED", 403, "may not see this"),
        ("SESSION_NOT_FOUND", 404, "did not work"),
        ("UNAVAILABLE", 503, "cannot answer now"),
    ],
)
def test_an_error_is_a_part_or_json_with_its_status(reason: str, status: int, told: str) -> None:
    ask = Asker(refuse(reason, f"No: {EVIL}", {"retryAfterSeconds": "7"} if status == 503 else {}))
    part = ask("/console/parts/status")
    assert (part.status_code, part.headers["Content-Type"]) == (status, "text/html; charset=utf-8")
    assert part.headers["Cache-Control"] == "no-store"
    assert told in part.text
    assert reason in part.text
    assert EVIL not in part.text
    assert "&lt;script&gt;" in part.text
    data = ask("/console/data/overview")
    assert (data.status_code, data.json["code"]) == (status, reason)
    assert data.headers["Content-Security-Policy"]
    if status == 503:
        assert part.headers["Retry-After"] == data.headers["Retry-After"] == "7"
    if status == 401:
        assert part.headers["WWW-Authenticate"] == data.headers["WWW-Authenticate"]


def test_a_key_that_is_refused_is_told_from_none() -> None:
    refused = Asker(refuse("UNAUTHENTICATED"), metadata=KEY)("/console/data/key")
    assert 'error="invalid_token"' in refused.headers["WWW-Authenticate"]
    assert (
        "invalid_token"
        not in Asker(refuse("UNAUTHENTICATED"))("/console/data/key").headers["WWW-Authenticate"]
    )
    good = Asker(lambda *_: GetServiceStatusResponse(), metadata=KEY)("/console/data/key")
    assert (good.status_code, good.json) == (200, {"isGood": True})


def test_a_server_that_is_away_and_a_fault_of_ours_are_parts_too() -> None:
    def away(*_: Any) -> Any:
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())

    assert Asker(away)("/console/parts/status").status_code == 503
    broken = Asker(lambda *_: None)("/console/parts/status")
    assert broken.status_code == 500
    assert "errorId" in broken.text
    assert "NoneType" not in broken.text


def overview(**figures: Any) -> GetOverviewResponse:
    point = OverviewPoint(at=values.timestamp(NOW), messages_per_second=2.5, open_deliveries=3, **figures)
    return GetOverviewResponse(
        points=[point, OverviewPoint(at=values.timestamp(NOW + 10_000), reply_p95_ms=12)],
        now=point,
        refusals={"RATE_LIMITED": 2, "OVERLOADED": 1},
        started_at=values.timestamp(NOW - 5000),
        oldest_delivery_seconds=4.5,
    )


def test_the_overview_is_columns_with_nothing_where_there_is_no_figure() -> None:
    asked: list[GetOverviewRequest] = []

    def answer(request: Any, _metadata: Any) -> Any:
        asked.append(request)
        return overview(first_chunk_p50_ms=0.0)

    body = Asker(answer)(f"/console/data/overview?after={NOW}").json
    assert body["at"] == [NOW, NOW + 10_000]
    assert body["points"]["messages"] == [2.5, 0]
    assert body["points"]["firstChunkP50"] == [0, None]
    assert body["points"]["replyP95"] == [None, 12]
    assert {len(column) for column in body["points"].values()} == {2}
    assert (body["nowAt"], body["now"]["openDeliveries"]) == (NOW, 3)
    assert body["now"]["replyP95"] is None
    assert (body["startedAt"], body["oldestDeliverySeconds"]) == (NOW - 5000, 4.5)
    assert list(body["refusalsByReason"].items()) == [("OVERLOADED", 1), ("RATE_LIMITED", 2)]
    assert asked == [GetOverviewRequest(after=values.timestamp(NOW))]


def test_every_figure_of_a_point_is_told() -> None:
    told = Asker(lambda *_: overview())("/console/data/overview").json["points"]
    assert len(told) == len(OverviewPoint.DESCRIPTOR.fields) - 1


@pytest.mark.parametrize("after", ["x", "-1", "1.5", "٣", "9" * 30, "9" * 5000, "1e3", "0" * 20 + "9" * 20])
def test_an_instant_that_is_none_is_refused(after: str) -> None:
    answer = Asker(lambda *_: overview())(f"/console/data/overview?after={after}")
    assert (answer.status_code, answer.json["details"]["field"]) == (400, "after")


def system(**facts: Any) -> GetSystemResponse:
    return GetSystemResponse(
        version="1.2.3",
        started_at=values.timestamp(NOW),
        schema_version=12,
        changed_settings=[
            GetSystemResponse.Setting(name="LOG_LEVEL", value=EVIL, default_value="info"),
            GetSystemResponse.Setting(name="AGENTS_FILE", value="agents.toml"),
        ],
        parts=[GetSystemResponse.Part(name="store", health=HEALTHY, reason=EVIL)],
        **facts,
    )


def test_the_system_page_tells_all_that_the_service_does_and_escapes_it() -> None:
    store = GetSystemResponse.StoreFile(
        path="/var/lib/store.db",
        data_bytes=3 << 30,
        wal_bytes=1536,
        disk_free_bytes=1 << 40,
        disk_total_bytes=4 << 40,
    )
    run = GetSystemResponse.Run(at=values.timestamp(NOW), is_good=False, detail="the disk is full")
    text = Asker(lambda *_: system(store=store, last_backup=run, is_protected=True))(
        "/console/parts/system"
    ).text
    assert EVIL not in text
    for told in (
        *("1.2.3", "2027-01-15 08:00:00 UTC", "LOG_LEVEL", "agents.toml", "healthy", "/var/lib/store.db"),
        *("3.0 GiB", "1.5 KiB", "1.0 TiB free of 4.0 TiB", "75 % used", "the disk is full", "failed"),
        *("none noted", "eliza-sessions check", "protected"),
    ):
        assert told in text, told


def test_a_system_that_tells_little_is_shown_too() -> None:
    text = Asker(lambda *_: GetSystemResponse(started_at=Timestamp()))("/console/parts/system").text
    for told in ("All are at their defaults", "names no parts", "tells nothing of its files", "open"):
        assert told in text, told


@pytest.mark.parametrize(
    ("size_bytes", "told"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (1024, "1.0 KiB"),
        (150 << 10, "150 KiB"),
        (1 << 60, "1024 PiB"),
    ],
)
def test_a_size_is_shown_in_its_unit(size_bytes: int, told: str) -> None:
    assert show_size(size_bytes) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        *((0, "0 s"), (0.25, "250 ms"), (1, "1 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3600, "1 h")),
        *((86_400 + 7200, "1 d 2 h"), (400 * 86_400, "400 d")),
    ],
)
def test_a_length_of_time_is_shown_in_its_units(seconds: float, told: str) -> None:
    assert show_duration(seconds) == told


def test_instants_are_in_utc() -> None:
    assert show_instant(values.timestamp(NOW + 999)) == "2027-01-15 08:00:00 UTC"


def test_a_template_that_lacks_a_value_fails() -> None:
    with pytest.raises(Exception, match="'service' is undefined"):
        respond_part("parts/status.html", health=("", ""))
