"""The fields that requests may have. Others are accepted, and named to the client: they may be typos."""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final, TypeAlias
from urllib.parse import quote

from eliza.sessions.errors import truncate

Fields: TypeAlias = Mapping[str, "Fields | None"]
"""Names, each with the fields below it; None where anything may be below."""

UNKNOWN_HEADER: Final = "Eliza-Unknown-Fields"
APPLIED_HEADER: Final = "Preference-Applied"

MAX_NAMES: Final = 10
"""How many unknown fields are named."""

MAX_NAME_BYTES: Final = 100
"""How long a name is in the header at most, so that all of them have less than 1 KiB."""


def _any_of(*names: str) -> Fields:
    return dict.fromkeys(names)


_TIMEOUTS: Final = ("timeoutMinutes", "maxDurationMinutes", "warningThresholdMinutes")

UPDATE_TIMEOUT: Final[Fields] = _any_of("autoRenew", *_TIMEOUTS)
CREATE_SESSION: Final[Fields] = {**_any_of("agentId", "userId", "metadata"), "timeoutConfig": UPDATE_TIMEOUT}
SEND_MESSAGE: Final[Fields] = _any_of("content", "metadata", "attachments", "transport", "mode")
CREATE_ACCESS_TOKEN: Final[Fields] = _any_of("verbs", "seconds")
MOVE_CLOCK: Final[Fields] = _any_of("now", "advanceMs")
NOTHING: Final[Fields] = {}
SOCKET_MESSAGE: Final[Fields] = {
    **_any_of("channelId", "roomId", "message", "messageId", "metadata", "attachments", "requestId"),
    # Live clients send these too. The session already holds their meaning.
    **_any_of("senderId", "senderName", "entityId", "userId", "userName", "username", "agentId", "sessionId"),
    **_any_of("serverId", "messageServerId", "worldId", "source", "sourceType", "raw_message", "rawMessage"),
    **_any_of("targetUserId", "isDm", "channelType", "transport", "mode", "timestamp", "createdAt"),
}

_PREFERENCE: Final = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*"?)+')
_NAME_AND_VALUE: Final = re.compile(r'\s*([^\s=;"]+)\s*(?:=\s*("(?:\\.|[^"\\])*"|[^\s;"]*))?')


def find_unknown(body: Mapping[str, Any], known: Fields) -> list[tuple[str, ...]]:
    """The paths of the first fields that are not known, at most MAX_NAMES."""
    return list(islice(_unknown(body, known), MAX_NAMES))


def _unknown(body: Mapping[str, Any], known: Fields) -> Iterator[tuple[str, ...]]:
    for name, value in body.items():
        if name not in known:
            yield (name,)
        elif (below := known[name]) is not None and isinstance(value, dict):
            yield from ((name, *path) for path in _unknown(value, below))


def show(paths: list[tuple[str, ...]]) -> list[str]:
    """Paths as JSON repeats them: names joined by dots, cut."""
    return [truncate(".".join(path)) for path in paths]


def encode(paths: list[tuple[str, ...]]) -> str:
    """Paths as the header has them: names are percent-encoded, and cut where they are long."""
    return ", ".join(_encode(path) for path in paths)


def _encode(path: tuple[str, ...]) -> str:
    *above, last = path
    # So that a dot within a name differs from the dots between names.
    head = "".join(f"{name}." for name in above)
    characters: list[str] = []
    left = MAX_NAME_BYTES - len(head)
    for character in last[:MAX_NAME_BYTES]:
        quoted = quote(character.encode("utf-8", "surrogatepass"), safe="").replace(".", "%2E")
        left -= len(quoted)
        if left < 0:
            break
        characters.append(quoted)
    # Nothing else could stand for a name without characters.
    return head + ("".join(characters) or '""')


def is_strict(prefer: str) -> bool:
    """Whether a Prefer header (RFC 7240) asks for strict handling.

    Of a preference named twice the first counts.
    """
    for preference in _PREFERENCE.findall(prefer):
        found = _NAME_AND_VALUE.match(preference)
        if found and found[1].lower() == "handling":
            value = (found[2] or "").removeprefix('"').removesuffix('"')
            return re.sub(r"\\(.)", r"\1", value).lower() == "strict"
    return False
