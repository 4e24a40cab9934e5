"""The entries of a watch: how the session stood, and when."""

from contextlib import closing

from eliza.sessions import values
from eliza.sessions.v1 import (
    log_pb2,
    session_service_pb2,
    timeout_pb2,
)
from tests.service.watch.changes import MINUTE, talked
from tests.support.clients import create, send
from tests.support.realtime.streams import Watching, ends
from tests.support.service import Serve


def heartbeat(service: Serve, session_id: str) -> None:
    service.sessions.SendHeartbeat(
        session_service_pb2.SendHeartbeatRequest(session_id=session_id), timeout=10
    )


def renew(service: Serve, session_id: str) -> None:
    service.sessions.RenewSession(session_service_pb2.RenewSessionRequest(session_id=session_id), timeout=10)


def patch(service: Serve, session_id: str, **change: float | bool) -> None:
    request = session_service_pb2.UpdateTimeoutRequest(
        session_id=session_id, timeout_config=timeout_pb2.TimeoutConfig(**change)
    )
    service.sessions.UpdateTimeout(request, timeout=10)


class TestEntries:
    def test_each_tells_how_the_session_stood(self, service: Serve) -> None:
        created = create(service, timeout_minutes=30, max_duration_minutes=100, warning_threshold_minutes=5)
        session_id, begun = created.session_id, values.ms_floor(created.created_at)
        with closing(Watching(service, session_id)) as watching:

            def told(
                kind: str, expires_minutes: float, count: int, *, renewed: bool = False, near: bool = False
            ) -> log_pb2.LogEntry:
                entry = watching.entry()
                status = entry.session_status
                assert entry.WhichOneof("event") == kind
                assert values.ms_floor(status.expires_at) == begun + expires_minutes * MINUTE
                assert (status.renewal_count, status.was_renewed, status.is_near_expiration) == (
                    count,
                    renewed,
                    near,
                )
                return entry

            service.advance(minutes=1)
            send(service, session_id, "hello")
            told("message", 31, 1, renewed=True)
            told("message", 31, 1)
            service.advance(minutes=1)
            heartbeat(service, session_id)
            told("renewal", 32, 2, renewed=True)
            service.advance(minutes=1)
            renew(service, session_id)
            told("renewal", 33, 3, renewed=True)
            patch(service, session_id, auto_renew=False, timeout_minutes=40)
            config = told("timeout_change", 43, 3).timeout_change.timeout_config
            assert config == timeout_pb2.TimeoutConfig(
                timeout_minutes=40, auto_renew=False, max_duration_minutes=100, warning_threshold_minutes=5
            )
            heartbeat(service, session_id)
            send(service, session_id, "renews nothing")
            told("message", 43, 3)
            told("message", 43, 3)
            service.advance(minutes=35.5)
            assert told("expiration_warning", 43, 3, near=True).expiration_warning.minutes_remaining == 4.5
            send(service, session_id, "soon")
            told("message", 43, 3, near=True)
            told("message", 43, 3, near=True)
            patch(service, session_id, auto_renew=True)
            told("timeout_change", 78.5, 3)
            service.advance(minutes=1)
            renew(service, session_id)
            told("renewal", 79.5, 4, renewed=True)
            service.advance(minutes=36)
            told("expiration_warning", 79.5, 4, near=True)
            patch(service, session_id, timeout_minutes=90)
            told("timeout_change", 100, 4)
            service.advance(minutes=100)
            expiry = told("expiry", 100, 4)
            assert values.ms_floor(expiry.expiry.expired_at) == begun + 100 * MINUTE
            ends(watching)

    def test_times_strictly_increase(self, service: Serve) -> None:
        session_id = talked(service, 2)
        for _ in range(3):
            renew(service, session_id)
        with closing(Watching(service, session_id)) as watching:
            times = [values.ms_floor(entry.at) for entry in watching.entries(7)]
        assert times == sorted(set(times))
