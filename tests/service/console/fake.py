"""A server for the console that says what a test wants: an hour of figures, a full system page, keys."""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Self

import grpc

from eliza.sessions import values
from eliza.sessions.errors import TABLE, error_trailers
from eliza.sessions.v1 import admin_service_pb2_grpc, session_service_pb2_grpc
from eliza.sessions.v1.admin_service_pb2 import (
    GetOverviewRequest,
    GetOverviewResponse,
    GetSystemResponse,
    OverviewPoint,
)
from eliza.sessions.v1.session_service_pb2 import GetServiceStatusResponse

POINT_MS: Final = 10_000
HOUR_POINTS: Final = 360


def make_point(at_ms: int) -> OverviewPoint:
    """A point of a service that has something to do: the same for the same instant."""
    turn = at_ms / 600_000
    busy = 30 + 20 * math.sin(turn) + 6 * math.sin(7 * turn)
    return OverviewPoint(
        at=values.timestamp(at_ms),
        messages_per_second=busy,
        replies_per_second=busy * 0.97,
        first_chunk_p50_ms=180 + 3 * busy,
        first_chunk_p95_ms=420 + 9 * busy,
        reply_p50_ms=900 + 5 * busy,
        reply_p95_ms=2400 + 30 * busy,
        open_deliveries=int(busy * 1.4),
        # No two points have the same.
        live_sessions=12_000 + at_ms // POINT_MS % 1000,
        expiring_sessions=int(300 + busy),
        open_streams=int(800 + 5 * busy),
        refusals_per_second=max(0.0, 2 * math.sin(3 * turn)),
        store_bytes=(7 << 30) + int((at_ms % 3_600_000) * 400),
        event_loop_lag_ms=1 + abs(3 * math.sin(5 * turn)),
    )


def make_system() -> GetSystemResponse:
    """A system page with something in each place, long texts among it."""
    now_ms = int(time.time() * 1000)
    health = GetServiceStatusResponse
    parts = (
        ("store", health.HEALTH_HEALTHY, ""),
        ("expiry", health.HEALTH_HEALTHY, ""),
        ("purge", health.HEALTH_DEGRADED, "the purge is three hours behind: 120,000 sessions wait for it"),
        ("agent support", health.HEALTH_UNHEALTHY, "no worker is connected, and 14 messages wait for one"),
    )
    run = GetSystemResponse.Run
    return GetSystemResponse(
        version="0.2.0",
        started_at=values.timestamp(now_ms - 93_784_000),
        schema_version=12,
        is_protected=True,
        changed_settings=[
            GetSystemResponse.Setting(
                name="DATABASE_URL",
                value="sqlite:////var/lib/eliza-sessions/with/a/path/that/is/quite/long/eliza-sessions.db",
                default_value="sqlite:///eliza-sessions.db",
            ),
            GetSystemResponse.Setting(name="KEYS_FILE", value="/etc/eliza-sessions/keys.toml"),
            GetSystemResponse.Setting(name="ELIZA_SERVER_AUTH_TOKEN", value="(set)"),
            GetSystemResponse.Setting(name="REST_DEADLINE_SECONDS", value="45", default_value="30"),
        ],
        parts=[
            GetSystemResponse.Part(
                name=name, health=one, reason=reason, since=values.timestamp(now_ms - 3_600_000)
            )
            for name, one, reason in parts
        ],
        store=GetSystemResponse.StoreFile(
            path="/var/lib/eliza-sessions/with/a/path/that/is/quite/long/eliza-sessions.db",
            data_bytes=7 << 30,
            wal_bytes=64 << 20,
            disk_free_bytes=9 << 30,
            disk_total_bytes=100 << 30,
            gives_back_space=True,
            free_pages_bytes=200 << 20,
        ),
        last_backup=run(
            at=values.timestamp(now_ms - 7_200_000), is_good=True, detail="/backup/2026-11-27.db, 6.8 GiB"
        ),
        last_check=run(
            at=values.timestamp(now_ms - 86_400_000), is_good=False, detail="2 sessions unreadable"
        ),
    )


class FakeServer:
    """A gRPC server on a port that stays its own over stops and starts.

    `keys` are good, each with its role; None: it is open. `overviews` are the requests for figures.
    """

    keys: dict[str, str] | None
    overviews: list[GetOverviewRequest]

    def __init__(self) -> None:
        self._server: grpc.Server | None = None
        self._port = 0

    def reset(self) -> None:
        """Is as it is at first."""
        self.keys = None
        self.system = make_system()
        self.overviews = []
        self.newest_ms = int(time.time() * 1000)
        self.started_ms = self.newest_ms - 93_784_000
        self.calls = 0
        if self._server is None:
            self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Serves."""
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        session_service_pb2_grpc.add_SessionServiceServicer_to_server(_Sessions(self), self._server)
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(_Admin(self), self._server)
        self._port = self._server.add_insecure_port(f"127.0.0.1:{self._port}")
        self._server.start()

    def stop(self) -> None:
        """Is away."""
        assert self._server
        self._server.stop(0).wait()
        self._server = None

    def __enter__(self) -> Self:
        self.reset()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server:
            self.stop()

    def enter(self, context: grpc.ServicerContext, role: str = "") -> None:
        """Ends a call without a good key; `role` is the one that it takes."""
        self.calls += 1
        if self.keys is None:
            return
        given = dict(context.invocation_metadata()).get("authorization", "").removeprefix("Bearer ")
        if given not in self.keys and (given or role):
            _abort(context, "UNAUTHENTICATED", "The credential is not known")
        if role and self.keys[given] != role:
            _abort(context, "PERMISSION_DENIED", f"The role {self.keys[given]} may not do this")


def _abort(context: grpc.ServicerContext, reason: str, message: str) -> None:
    row = TABLE[reason]
    context.set_trailing_metadata(error_trailers(row, message, {}))
    context.abort(row.grpc_status, message)


class _Sessions(session_service_pb2_grpc.SessionServiceServicer):
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def GetServiceStatus(self, _request: Any, context: grpc.ServicerContext) -> GetServiceStatusResponse:
        self._server.enter(context)
        return GetServiceStatusResponse(
            health=GetServiceStatusResponse.HEALTH_DEGRADED, version="0.2.0", uptime_seconds=93_784
        )


class _Admin(admin_service_pb2_grpc.AdminServiceServicer):
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def GetOverview(self, request: GetOverviewRequest, context: grpc.ServicerContext) -> GetOverviewResponse:
        server = self._server
        server.enter(context, "admin")
        server.overviews.append(request)
        after_ms = values.ms_floor(request.after) if request.HasField("after") else 0
        instants = range(server.newest_ms - HOUR_POINTS * POINT_MS + POINT_MS, server.newest_ms + 1, POINT_MS)
        return GetOverviewResponse(
            points=[make_point(at_ms) for at_ms in instants if at_ms > after_ms],
            now=make_point(server.newest_ms),
            refusals={"RATE_LIMITED": 1204, "UNAUTHENTICATED": 37, "OVERLOADED": 3},
            started_at=values.timestamp(server.started_ms),
            oldest_delivery_seconds=12.4,
            expiry_lag_seconds=0.02,
        )

    def GetSystem(self, _request: Any, context: grpc.ServicerContext) -> GetSystemResponse:
        self._server.enter(context, "admin")
        return self._server.system
