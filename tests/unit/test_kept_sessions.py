"""Sessions that are read time and again: told as if made anew, and each answer is its reader's own."""

import pytest

from eliza.sessions import values
from server.domain.sessions import Session
from server.domain.timeouts import TimeoutConfig
from server.rpc import to_proto

STORED = Session(
    id="01a220f5-f950-750d-8c4a-0ae5b036b6a7",
    channel_id="01a220f5-f950-750d-8c4a-0ae5b036b6a8",
    agent_id="00000000-0000-4000-8000-0000000000ec",
    user_id="11111111-1111-4111-8111-111111111111",
    metadata='{"plan":"pro"}',
    timeout=TimeoutConfig(30, True, 720, 5),
    created_at_ms=0,
    last_activity_ms=1,
    renewed_at_ms=0,
    expires_at_ms=1_800_000,
    renewal_count=0,
    warning_logged=False,
    expiry_logged=False,
    last_sequence=0,
    last_entry_ms=-1,
)


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize(
    "stored",
    [
        STORED,
        STORED._replace(last_activity_ms=2),
        STORED._replace(metadata=f'{{"long":"{to_proto.KEPT_METADATA * "x"}"}}'),
    ],
    ids=["one", "another state", "long metadata"],
)
def test_a_session_is_told_as_it_is_at_each_instant(stored: Session, as_text: bool) -> None:
    for now_ms in (0, 1_700_000, 1_799_999, 1_900_000):
        anew = to_proto.session(stored, now_ms, as_text)
        told = to_proto.read_session(stored, now_ms, as_text)
        assert told == anew
        # What a reader makes of it is nobody else's.
        told.session_id = ""
        assert to_proto.read_session(stored, now_ms, as_text) == anew


@pytest.mark.parametrize("ms", [-1, 0, 1, 999, 1000, 1_795_846_381_234])
def test_a_timestamp_that_is_set_within_a_message_is_as_one_that_is_made(ms: int) -> None:
    told = to_proto.session(STORED, 0, True)
    values.set_timestamp(told.created_at, ms)
    assert told.HasField("created_at")
    assert told.created_at == values.timestamp(ms)
