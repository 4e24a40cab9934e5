"""Tokens for one session: what a browser gets."""

from tests.contract.cases.common import expired
from tests.contract.steps import At, Fails, Upper, access_token, advance, case, create
from tests.support.service import UNKNOWN

CASES = [
    case(
        "a token allows what is asked for, for as long",
        create(),
        access_token(gives={"verbs": ["read", "send"], "expiresAt": At(15), "sessionId": "$sid"}),
        access_token(verbs=["change", "read", "read"], gives={"verbs": ["change", "read"]}),
        access_token(verbs=["send"], seconds=60, gives={"verbs": ["send"], "expiresAt": At(1)}),
        access_token(Upper("$sid"), gives={"sessionId": "$sid"}),
    ),
    case(
        "a token is for a live session only",
        create(),
        access_token(UNKNOWN, fails=Fails("SESSION_NOT_FOUND", {"sessionId": UNKNOWN})),
        access_token("x", fails=Fails("SESSION_NOT_FOUND", {"sessionId": "x"})),
        advance(30),
        access_token(fails=expired(30)),
    ),
    case(
        "a token's verbs and time have bounds",
        create(),
        access_token(verbs=["read", "own"], fails=Fails("INVALID_FIELD", {"field": "verbs", "value": "own"})),
        access_token(seconds=0.5, fails=Fails("INVALID_FIELD")),
        access_token(seconds=901, fails=Fails("INVALID_FIELD")),
    ),
]
