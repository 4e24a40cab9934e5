"""Bad input over gRPC about access: tokens for one session, and the data of a user."""

from collections.abc import Iterator

from google.protobuf.duration_pb2 import Duration

from eliza.sessions.v1 import session_service_pb2 as sessions
from eliza.sessions.v1 import user_data_service_pb2 as user_data
from tests.contract.bad_pieces import SID, USER
from tests.contract.rpc_pieces import BadRpc, bad_rpc


def bad_tokens_and_users() -> Iterator[BadRpc]:
    """Verbs, lifetimes, users and page tokens that are none."""
    for verb in ("", "READ", "read ", "own", "\0", "😀", "x" * 50_000):
        request = sessions.CreateAccessTokenRequest(session_id=SID, verbs=["read", verb])
        yield bad_rpc(f"a verb {verb[:10]!r} of {len(verb)}", "CreateAccessToken", request, "INVALID_FIELD")
    request = sessions.CreateAccessTokenRequest(session_id=SID, verbs=["own"] * 10_000)
    yield bad_rpc("10,000 verbs", "CreateAccessToken", request, "INVALID_FIELD")
    for name, lifetime in (
        ("nothing", Duration()),
        ("a millisecond", Duration(nanos=1_000_000)),
        ("less than nothing", Duration(seconds=-60)),
        ("a day", Duration(seconds=86_400)),
        ("10,000 years", Duration(seconds=315_576_000_000)),
        ("more than there is", Duration(seconds=2**62)),
        ("nanoseconds beyond a second", Duration(seconds=1, nanos=2_000_000_000)),
    ):
        request = sessions.CreateAccessTokenRequest(session_id=SID, lifetime=lifetime)
        yield bad_rpc(f"a lifetime of {name}", "CreateAccessToken", request, "fine INVALID_FIELD")
    for user in ("x", "\0", f"{USER} ", USER[:-1], "x" * 50_000):
        for rpc, kind in (
            ("ListUserSessions", user_data.ListUserSessionsRequest),
            ("ExportUserData", user_data.ExportUserDataRequest),
            ("DeleteUserData", user_data.DeleteUserDataRequest),
        ):
            yield bad_rpc(f"a user {user[:10]!r} of {len(user)}", rpc, kind(user_id=user), "INVALID_UUID")
    for token in ("x", "é", "A" * 50_000):
        listing = user_data.ListUserSessionsRequest(user_id=USER, page_token=token)
        yield bad_rpc(
            f"a token {token[:5]!r} of {len(token)}", "ListUserSessions", listing, "INVALID_PAGINATION"
        )
    yield bad_rpc(
        "a negative size",
        "ListUserSessions",
        user_data.ListUserSessionsRequest(user_id=USER, page_size=-1),
        "INVALID_PAGINATION",
    )
