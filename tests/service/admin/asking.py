"""AdminService as a test asks it."""

from collections.abc import Iterator
from typing import Any

from eliza.sessions.v1 import admin_service_pb2 as pb
from eliza.sessions.v1.admin_service_pb2_grpc import AdminServiceStub
from tests.support.service import Serve

SECONDS = 20


def admin(service: Serve) -> Any:
    """The stub, each of whose calls has a deadline."""
    return AdminServiceStub(service.channel)


def search(service: Serve, **filters: Any) -> list[pb.FoundSession]:
    """All sessions that a search finds, page by page."""
    return list(_all(admin(service).SearchSessions, pb.SearchSessionsRequest, "sessions", filters))


def deliveries(service: Serve, **filters: Any) -> list[pb.MessageDelivery]:
    """All deliveries of a list, page by page."""
    return list(_all(admin(service).ListDeliveries, pb.ListDeliveriesRequest, "deliveries", filters))


def activity(service: Serve, agent_id: str) -> pb.GetAgentActivityResponse:
    """How an agent fares."""
    request = pb.GetAgentActivityRequest(agent_id=agent_id)
    answer: pb.GetAgentActivityResponse = admin(service).GetAgentActivity(request, timeout=SECONDS)
    return answer


def redeliver(service: Serve, session_id: str, message_id: str, sequence: int = 0) -> pb.MessageDelivery:
    """Has a message delivered anew."""
    request = pb.RedeliverMessageRequest(
        session_id=session_id, message_id=message_id, message_sequence=sequence
    )
    answer: pb.MessageDelivery = admin(service).RedeliverMessage(request, timeout=SECONDS).delivery
    return answer


def _all(method: Any, kind: Any, field: str, filters: dict[str, Any]) -> Iterator[Any]:
    token = ""
    while True:
        page = method(kind(page_token=token, **filters), timeout=SECONDS)
        yield from getattr(page, field)
        token = page.next_page_token
        if not token:
            return
