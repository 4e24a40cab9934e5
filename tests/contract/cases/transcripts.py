"""The transcript of a session, live or expired."""

from tests.contract.steps import Fails, Upper, advance, case, create, renew, transcript
from tests.support.service import UNKNOWN

CASES = [
    case(
        "a transcript has the session and its log, also once it has expired",
        create(),
        transcript(records=["session"]),
        renew(),
        transcript(Upper("$sid"), records=["session", "entry"]),
        advance(30),
        transcript(records=["session", "entry", "entry"]),
    ),
    case("nobody's session has no transcript", transcript(UNKNOWN, fails=Fails("SESSION_NOT_FOUND"))),
]
