"""The test clock."""

from tests.contract.cases.common import JSON_TYPES
from tests.contract.steps import At, Fails, call, case

CASES = [
    case(
        "the test clock stands still until it is moved",
        call("clock", gives={"now": At()}),
        call("clock", gives={"now": At()}),
        call("advance", {"advanceMs": 1500}, gives={"now": At(ms=1500)}),
        call("advance", {"advanceMs": 0}, gives={"now": At(ms=1500)}),
        call("set_clock", {"now": At(2)}, gives={"now": At(2)}),
        call("clock", gives={"now": At(2)}),
    ),
    case(
        "the test clock stays within bounds",
        call(
            "advance", {"advanceMs": -1}, fails=Fails("INVALID_FIELD", {"field": "advanceMs", "value": "-1"})
        ),
        call("advance", {"advanceMs": 2**62}, fails=Fails("INVALID_FIELD", {"field": "advanceMs"})),
        call(
            "set_clock", {"now": "9000-01-01T00:00:00.001Z"}, fails=Fails("INVALID_FIELD", {"field": "now"})
        ),
        call(
            "set_clock", {"now": "1969-12-31T23:59:59.999Z"}, fails=Fails("INVALID_FIELD", {"field": "now"})
        ),
        call("clock", gives={"now": At()}),
    ),
    case(
        "the test clock cannot be set to nothing",
        call("set_clock", fails=Fails("MISSING_FIELDS", {"missingFields": ["now"]})),
        grpc_only="REST has one path for both",
    ),
    case(
        "the test clock is told one thing at a time, in its type",
        call("set_clock", {"x": 1}, fails=Fails("MISSING_FIELDS", {"missingFields": ["advanceMs", "now"]})),
        call("set_clock", {"now": At(1), "advanceMs": 1}, fails=Fails("INVALID_FIELD", {"field": "now"})),
        *(
            call("advance", {"advanceMs": given}, fails=Fails("INVALID_FIELD", {"field": "advanceMs"}))
            for given in ("5", 0.5, True, [], {}, 2**63, "x")
        ),
        *(
            call("set_clock", {"now": given}, fails=Fails("INVALID_FIELD", {"field": "now"}))
            for given in (5, True, "tomorrow", "", [], {}, "9999-99-99")
        ),
        call("advance", {"advanceMs": 1000.0, "now": None}, gives={"now": At(ms=1000)}),
        call("clock", gives={"now": At(ms=1000)}),
        rest_only=JSON_TYPES,
    ),
]
