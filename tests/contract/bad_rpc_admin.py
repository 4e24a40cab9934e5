"""Bad input over gRPC to AdminService."""

from collections.abc import Iterator

from google.protobuf.timestamp_pb2 import Timestamp

from eliza.sessions.v1 import admin_service_pb2 as admin
from tests.contract.bad_pieces import FINE, SID, USER
from tests.contract.rpc_pieces import BadRpc, bad_rpc

TEXTS = ("x", "\0", f"{USER} ", USER[:-1], "😀", "x" * 50_000)
TOKENS = ("x", "é", "A" * 50_000, "W10", "bnVsbA")
NUMBERS = (-1, 5, 99, 2**31 - 1, -(2**31))
INSTANTS = {
    "10,000 years": Timestamp(seconds=315_576_000_000),
    "long before": Timestamp(seconds=-(2**62)),
    "more than there is": Timestamp(seconds=2**62),
}


def bad_searches() -> Iterator[BadRpc]:
    """Filters that are none."""
    for text in TEXTS:
        name = f"{text[:10]!r} of {len(text)}"
        for field in ("user_id", "agent_id"):
            request = admin.SearchSessionsRequest(**{field: text})
            yield bad_rpc(f"{field} {name}", "SearchSessions", request, "INVALID_UUID")
        request = admin.SearchSessionsRequest(session_id_prefix=text)
        outcome = FINE if text == USER[:-1] else "INVALID_FIELD"
        yield bad_rpc(f"a beginning {name}", "SearchSessions", request, outcome)
    for text in ("İ", "g", "a" * 37, "%", "a%", "a\n"):
        request = admin.SearchSessionsRequest(session_id_prefix=text)
        yield bad_rpc(f"a beginning {text!r}", "SearchSessions", request, "INVALID_FIELD")
    for token in TOKENS:
        request = admin.SearchSessionsRequest(page_token=token)
        yield bad_rpc(f"a token {token[:5]!r}", "SearchSessions", request, "INVALID_PAGINATION")
    for number in NUMBERS:
        request = admin.SearchSessionsRequest(state=number)
        yield bad_rpc(f"the state {number}", "SearchSessions", request, "INVALID_FIELD")
        request = admin.SearchSessionsRequest(json_form=number)
        yield bad_rpc(f"the form {number}", "SearchSessions", request, "INVALID_FIELD")
    yield bad_rpc(
        "a negative size", "SearchSessions", admin.SearchSessionsRequest(page_size=-1), "INVALID_PAGINATION"
    )
    for name, instant in INSTANTS.items():
        for field in ("created_after", "created_before"):
            request = admin.SearchSessionsRequest(**{field: instant})
            yield bad_rpc(f"{field} {name}", "SearchSessions", request, "INVALID_FIELD")
        overview = admin.GetOverviewRequest(after=instant)
        yield bad_rpc(f"after {name}", "GetOverview", overview, "INVALID_FIELD")


def bad_deliveries() -> Iterator[BadRpc]:
    """Deliveries of nobody, and messages that are none."""
    both = admin.ListDeliveriesRequest(session_id=SID, agent_id=USER)
    yield bad_rpc("both", "ListDeliveries", both, "INVALID_FIELD")
    yield bad_rpc("neither", "ListDeliveries", admin.ListDeliveriesRequest(), "MISSING_FIELDS")
    for text in TEXTS:
        name = f"{text[:10]!r} of {len(text)}"
        of_session = admin.ListDeliveriesRequest(session_id=text)
        yield bad_rpc(f"a session {name}", "ListDeliveries", of_session, "SESSION_NOT_FOUND")
        of_agent = admin.ListDeliveriesRequest(agent_id=text)
        yield bad_rpc(f"an agent {name}", "ListDeliveries", of_agent, "AGENT_NOT_FOUND")
        activity = admin.GetAgentActivityRequest(agent_id=text)
        yield bad_rpc(f"an agent {name}", "GetAgentActivity", activity, "AGENT_NOT_FOUND")
        anew = admin.RedeliverMessageRequest(session_id=text, message_id=USER)
        yield bad_rpc(f"a session {name}", "RedeliverMessage", anew, "SESSION_NOT_FOUND")
        anew = admin.RedeliverMessageRequest(session_id=SID, message_id=text)
        yield bad_rpc(f"a message {name}", "RedeliverMessage", anew, "DELIVERY_NOT_FOUND")
    for number in NUMBERS:
        request = admin.ListDeliveriesRequest(session_id=SID, state=number)
        yield bad_rpc(f"the state {number}", "ListDeliveries", request, "INVALID_FIELD")
    for token in TOKENS:
        request = admin.ListDeliveriesRequest(session_id=SID, page_token=token)
        yield bad_rpc(f"a token {token[:5]!r}", "ListDeliveries", request, "INVALID_PAGINATION")
    yield bad_rpc(
        "a negative size",
        "ListDeliveries",
        admin.ListDeliveriesRequest(session_id=SID, page_size=-1),
        "INVALID_PAGINATION",
    )
    for sequence in (2**63 - 1, 10**9):
        anew = admin.RedeliverMessageRequest(session_id=SID, message_id=USER, message_sequence=sequence)
        yield bad_rpc(f"the sequence {sequence}", "RedeliverMessage", anew, "DELIVERY_NOT_FOUND")
    anew = admin.RedeliverMessageRequest(session_id=SID, message_id=USER, message_sequence=-1)
    yield bad_rpc("a sequence below 0", "RedeliverMessage", anew, "INVALID_FIELD")
    anew = admin.RedeliverMessageRequest(session_id=SID)
    yield bad_rpc("no message", "RedeliverMessage", anew, "MISSING_FIELDS")
