"""The history of messages, and its pages."""

from tests.contract.cases.common import REST_PAGES, contents, reply, user_message
from tests.contract.shapes import Is
from tests.contract.steps import At, AtMs, Fails, advance, call, case, create, listing, messages, send, settle

CASES = [
    case(
        "a history starts empty, without cursors",
        create(),
        messages(gives={"messages": [], "hasMore": False}),
    ),
    case(
        "the history has the messages of both, newest first",
        create(),
        send(content="one"),
        settle(2),
        advance(1),
        send(content="two", attachments=[1]),
        settle(4),
        messages(
            gives={
                "messages": [
                    reply("two", At(1, ms=1)),
                    user_message("two", At(1), attachments=[1]),
                    reply("one", At(ms=1)),
                    user_message("one", At()),
                ],
                "hasMore": False,
                "cursors": {"before": AtMs(), "after": AtMs(1, ms=1)},
            }
        ),
    ),
    case(
        "times are unique where the clock stands still",
        create(),
        send(content="1", gives={"createdAt": At()}),
        settle(2),
        send(content="2", gives={"createdAt": At(ms=2)}),
        settle(4),
        send(content="3", gives={"createdAt": At(ms=4)}),
        settle(6),
        advance(ms=3),
        send(content="4", gives={"createdAt": At(ms=6)}),
        settle(8),
        messages(gives={"messages": contents("4", "4", "3", "3", "2", "2", "1", "1")}),
    ),
    case(
        "before and after exclude their own instant",
        create(),
        send(content="a", times=1),
        settle(2),
        send(content="b"),
        settle(4),
        messages(before=AtMs(), gives={"messages": [], "hasMore": False}),
        messages(before=AtMs(ms=1), gives={"messages": [user_message("a", At())], "hasMore": False}),
        messages(after=AtMs(ms=3), gives={"messages": [], "hasMore": False}),
        messages(after=AtMs(ms=2), gives={"messages": [reply("b", At(ms=3))], "hasMore": False}),
        messages(
            after=AtMs(),
            before=AtMs(ms=3),
            gives={"messages": [user_message("b", At(ms=2)), reply("a", At(ms=1))], "hasMore": False},
        ),
        messages(after=AtMs(ms=2), before=AtMs(ms=2), gives={"messages": [], "hasMore": False}),
        messages(after=AtMs(ms=3), before=AtMs(), gives={"messages": [], "hasMore": False}),
        messages(before=At(ms=1), gives={"messages": [user_message("a", At())]}),
        messages(after=At(ms=2), gives={"messages": [reply("b", At(ms=3))]}),
        messages(before=-1, gives={"messages": []}),
        messages(after=-1, gives={"messages": Is("all four", lambda page: len(page) == 4)}),
    ),
    case(
        "cursors may be ISO 8601 with other digits and zones",
        create(),
        send(),
        settle(2),
        messages(before="2000-01-01T00:00:00Z", gives={"messages": []}),
        messages(before="2000-01-01", gives={"messages": []}),
        messages(before="2000-01-01T00:00:00+02:00", gives={"messages": []}),
        messages(after="2000-01-01T00:00:00.5Z", gives={"messages": Is("both", lambda page: len(page) == 2)}),
        messages(after="946684800000", gives={"messages": Is("both", lambda page: len(page) == 2)}),
        rest_only="a Timestamp has no spelling",
    ),
    case(
        "hasMore is exact, backward and forward",
        create(),
        send(content="a"),
        settle(2),
        send(content="b"),
        settle(4),
        messages(limit=4, gives={"hasMore": False, "messages": contents("b", "b", "a", "a")}),
        messages(limit=3, gives={"hasMore": True, "messages": contents("b", "b", "a")}),
        messages(limit=2, before=AtMs(ms=2), gives={"hasMore": False, "messages": contents("a", "a")}),
        messages(limit=1, before=AtMs(ms=2), gives={"hasMore": True, "messages": [reply("a", At(ms=1))]}),
        messages(limit=1, before=AtMs(ms=1), gives={"hasMore": False, "messages": [user_message("a", At())]}),
        messages(limit=3, after=AtMs(ms=-1), gives={"hasMore": True, "messages": contents("b", "a", "a")}),
        messages(
            limit=4, after=AtMs(ms=-1), gives={"hasMore": False, "messages": contents("b", "b", "a", "a")}
        ),
        messages(limit=1, after=AtMs(ms=2), gives={"hasMore": False, "messages": [reply("b", At(ms=3))]}),
        messages(
            limit=1, after=AtMs(ms=1), gives={"hasMore": True, "messages": [user_message("b", At(ms=2))]}
        ),
        messages(
            limit=1,
            after=AtMs(),
            before=AtMs(ms=3),
            gives={"hasMore": True, "messages": [user_message("b", At(ms=2))]},
        ),
        messages(
            limit=2, after=AtMs(), before=AtMs(ms=3), gives={"hasMore": False, "messages": contents("b", "a")}
        ),
    ),
    case(
        "a client that follows the cursors sees everything",
        create(),
        send(content="a"),
        settle(2),
        send(content="b"),
        settle(4),
        messages(
            limit=1,
            gives={"messages": contents("b")},
            saves={"back": "cursors.before", "forth": "cursors.after"},
        ),
        messages(
            limit=2,
            before="$back",
            gives={"messages": contents("b", "a"), "hasMore": True},
            saves={"back": "cursors.before"},
        ),
        messages(limit=2, before="$back", gives={"messages": contents("a"), "hasMore": False}),
        messages(after="$forth", gives={"messages": [], "hasMore": False}),
        send(content="c"),
        settle(6),
        messages(after="$forth", gives={"messages": contents("c", "c"), "hasMore": False}),
    ),
    case(
        "a page has 50 messages unless asked otherwise, and never more than 100",
        create(),
        send(times=60),
        settle(120),
        messages(gives={"messages": Is("50", lambda page: len(page) == 50), "hasMore": True}),
        messages(limit=100, gives={"messages": Is("100", lambda page: len(page) == 100), "hasMore": True}),
        messages(limit=101, gives={"messages": Is("100", lambda page: len(page) == 100), "hasMore": True}),
        messages(
            limit=2_000_000_000, gives={"messages": Is("100", lambda page: len(page) == 100), "hasMore": True}
        ),
        messages(limit=1, gives={"messages": Is("1", lambda page: len(page) == 1), "hasMore": True}),
    ),
    case(
        "a limit that makes no sense is clamped or the default",
        create(),
        send(times=60),
        settle(120),
        *(
            messages(
                limit=given,
                gives={"messages": Is(f"{kept}", lambda page, kept=kept: len(page) == kept), "hasMore": True},
            )
            for given, kept in (
                ("0", 1),
                ("-5", 1),
                ("-1e9", 1),
                ("abc", 50),
                ("", 50),
                ("NaN", 50),
                ("1e3", 100),
                ("99999999999999999999999", 100),
                ("1e999", 100),
                ("2.9", 2),
                ("١", 50),
            )
        ),
        rest_only=REST_PAGES,
    ),
    *(
        case(
            f"{parameter} cannot be {given!r}",
            create(),
            messages(
                **{parameter: given},
                fails=Fails("INVALID_PAGINATION", {"parameter": parameter, "value": given}),
            ),
            rest_only="a Timestamp is typed",
        )
        for parameter in ("before", "after")
        for given in (
            "yesterday",
            "NaN",
            "2026-13-01T00:00:00Z",
            "2026-01-01T25:00:00Z",
            "1e400",
            "9" * 30,
            "-" + "9" * 30,
            "0x10",
            "null",
            "[]",
        )
    ),
    case(
        "a size cannot be negative",
        create(),
        messages(limit=-1, fails=Fails("INVALID_PAGINATION", {"parameter": "pageSize", "value": "-1"})),
        listing(limit=-1, fails=Fails("INVALID_PAGINATION", {"parameter": "pageSize", "value": "-1"})),
        call(
            "list_agents",
            {"limit": -1},
            fails=Fails("INVALID_PAGINATION", {"parameter": "pageSize", "value": "-1"}),
        ),
        grpc_only="REST clamps",
    ),
    case(
        "page tokens lead through the history, and belong to it",
        create(),
        send(content="a"),
        settle(2),
        send(content="b"),
        settle(4),
        messages(limit=3, gives={"hasMore": True}, saves={"token": "nextPageToken"}),
        messages(
            limit=3,
            pageToken="$token",
            gives={"messages": contents("a"), "hasMore": False, "nextPageToken": ""},
        ),
        messages(
            limit=1,
            after=AtMs(ms=-1),
            gives={"messages": [user_message("a", At())]},
            saves={"forth": "nextPageToken"},
        ),
        messages(
            limit=2,
            after=AtMs(ms=-1),
            pageToken="$forth",
            gives={"messages": contents("b", "a"), "hasMore": True},
        ),
        messages(limit=2, pageToken="$forth", fails=Fails("INVALID_PAGINATION", {"parameter": "pageToken"})),
        messages(
            limit=2,
            before=AtMs(ms=2),
            pageToken="$token",
            fails=Fails("INVALID_PAGINATION", {"parameter": "pageToken"}),
        ),
        messages(
            pageToken="garbage",
            fails=Fails("INVALID_PAGINATION", {"parameter": "pageToken", "value": "garbage"}),
        ),
        create(save="other"),
        messages("$other", pageToken="$token", fails=Fails("INVALID_PAGINATION", {"parameter": "pageToken"})),
        listing(pageToken="$token", fails=Fails("INVALID_PAGINATION", {"parameter": "pageToken"})),
        grpc_only="REST follows the cursors",
    ),
]
