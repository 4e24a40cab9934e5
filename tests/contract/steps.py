"""The words that cases are written in: steps, what they give or how they fail, and values that are known only
when a case runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Final

from tests.contract.shapes import Is, Some, iso
from tests.support.service import ECHO

MINUTE: Final = 60_000
DAY: Final = 24 * 60

ABSENT: Final = object()
"""In `create`: leave this field out."""


@dataclass(frozen=True)
class At:
    """The instant so long after the start of the case, as the contract writes it.

    The clock stands still but for `advance`.
    """

    minutes: float = 0
    ms: int = 0

    @property
    def offset_ms(self) -> int:
        """The distance from the start of the case."""
        return round(self.minutes * MINUTE) + self.ms


@dataclass(frozen=True)
class AtMs(At):
    """The same in milliseconds since the epoch."""


@dataclass(frozen=True)
class Upper:
    """A saved text in upper case."""

    text: str


@dataclass(frozen=True)
class DeliveryId:
    """The id of the delivery of a session's message: of the saved session, and of the message with this
    sequence.
    """

    session: str
    sequence: int = 1


@dataclass(frozen=True)
class Text:
    """A body as it is written, for what a JSON library would not write. REST only."""

    text: str


@dataclass(frozen=True)
class Fails:
    """The call fails with this code; `details` are some of its details."""

    code: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One call: of which operation, on which session, with what (a body, or a query), and what comes of it.

    `gives` are some of the keys of the answer; below them everything counts. `saves`: names for values of the
    answer.
    """

    call: str
    session: Any = "$sid"
    given: Any = field(default_factory=dict)
    gives: Mapping[str, Any] = field(default_factory=dict)
    fails: Fails | None = None
    saves: Mapping[str, str] = field(default_factory=dict)
    times: int = 1


@dataclass(frozen=True)
class Case:
    """A story of steps. `rest_only` and `grpc_only` say why the other transport cannot tell it."""

    name: str
    steps: tuple[Step, ...]
    rest_only: str = ""
    grpc_only: str = ""


def case(name: str, *steps: Step | list[Step], rest_only: str = "", grpc_only: str = "") -> Case:
    """A case of steps and lists of steps."""
    flat = [step for item in steps for step in (item if isinstance(item, list) else [item])]
    return Case(name, tuple(flat), rest_only, grpc_only)


def resolve(value: Any, saved: Mapping[str, Any]) -> Any:
    """The value with everything filled in that is known only now: `$name` is what was saved
    under the name.
    """
    match value:
        case AtMs():
            return saved["t0"] + value.offset_ms
        case At():
            return iso(saved["t0"] + value.offset_ms)
        case Upper():
            return saved[value.text[1:]].upper()
        case DeliveryId():
            return f"{saved[value.session[1:]]}-{value.sequence}"
        case str() if value.startswith("$"):
            return saved[value[1:]]
        case dict():
            return {key: resolve(item, saved) for key, item in value.items()}
        case list():
            return [resolve(item, saved) for item in value]
        case Is() | Text():
            return value
        case _ if is_dataclass(value):
            return replace(
                value, **{each.name: resolve(getattr(value, each.name), saved) for each in fields(value)}
            )
        case _:
            return value


def create(
    *, gives: Mapping[str, Any] | None = None, fails: Fails | None = None, save: str = "sid", **given: Any
) -> Step:
    """Creates a session of the case's user with the echo agent, unless told otherwise."""
    body = {
        key: value
        for key, value in {"agentId": ECHO, "userId": "$user", **given}.items()
        if value is not ABSENT
    }
    return Step("create", "", body, gives or {}, fails, {} if fails else {save: "sessionId"})


def timed(timeout: float | None = None, *, gives: Mapping[str, Any] | None = None, **config: Any) -> Step:
    """Creates a session with these timeout settings."""
    named = config if timeout is None else {"timeoutMinutes": timeout, **config}
    return create(timeoutConfig=named, gives=gives)


def get(session: Any = "$sid", *, fails: Fails | None = None, **gives: Any) -> Step:
    return Step("get", session, gives=gives, fails=fails)


def send(
    session: Any = "$sid",
    *,
    gives: Mapping[str, Any] | None = None,
    fails: Fails | None = None,
    times: int = 1,
    **given: Any,
) -> Step:
    return Step("send", session, {"content": "Hello", **given}, gives or {}, fails, times=times)


def converse(
    session: Any = "$sid",
    *,
    call: str = "converse",
    gives: Mapping[str, Any] | None = None,
    fails: Fails | None = None,
    saves: Mapping[str, str] | None = None,
    **given: Any,
) -> Step:
    """Sends a message and waits for the reply: whole (`converse`) or in pieces (`stream`)."""
    return Step(call, session, {"content": "Hello", **given}, gives or {}, fails, saves or {})


def messages(
    session: Any = "$sid",
    *,
    gives: Mapping[str, Any] | None = None,
    fails: Fails | None = None,
    saves: Mapping[str, str] | None = None,
    **query: Any,
) -> Step:
    return Step("messages", session, query, gives or {}, fails, saves or {})


def renew(session: Any = "$sid", *, fails: Fails | None = None, **gives: Any) -> Step:
    return Step("renew", session, gives=gives, fails=fails)


def heartbeat(session: Any = "$sid", *, fails: Fails | None = None, **gives: Any) -> Step:
    return Step("heartbeat", session, gives=gives, fails=fails)


def access_token(
    session: Any = "$sid", *, gives: Mapping[str, Any] | None = None, fails: Fails | None = None, **given: Any
) -> Step:
    return Step("token", session, given, gives or {}, fails)


def transcript(session: Any = "$sid", *, fails: Fails | None = None, **gives: Any) -> Step:
    return Step("transcript", session, gives=gives, fails=fails)


def patch(
    session: Any = "$sid", *, gives: Mapping[str, Any] | None = None, fails: Fails | None = None, **given: Any
) -> Step:
    return Step("update_timeout", session, given, gives or {}, fails)


def delete(session: Any = "$sid", *, fails: Fails | None = None, **gives: Any) -> Step:
    return Step("delete", session, gives=gives, fails=fails)


def listing(
    *,
    gives: Mapping[str, Any] | None = None,
    fails: Fails | None = None,
    saves: Mapping[str, str] | None = None,
    **query: Any,
) -> Step:
    return Step("list", "", query, gives or {}, fails, saves or {})


def health(**gives: Any) -> Step:
    return Step("health", "", gives=gives)


def advance(minutes: float = 0, ms: int = 0) -> Step:
    """Moves the clock."""
    return Step("advance", "", {"advanceMs": round(minutes * MINUTE) + ms})


def settle(count: int) -> Step:
    """Waits until the session's log has so many entries: the agent's replies come by themselves."""
    return Step("settle", given={"entries": count})


def http(method: str, path: str, *, fails: Fails, data: str = "", **headers: str) -> Step:
    """A request of REST as it is written; underscores in header names stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Step("http", "", {"method": method, "path": path, "data": data, "headers": named}, fails=fails)


def call(
    name: str,
    given: Mapping[str, Any] | None = None,
    *,
    gives: Mapping[str, Any] | None = None,
    fails: Fails | None = None,
    saves: Mapping[str, str] | None = None,
) -> Step:
    """An operation on no session: the clock's and the agents'."""
    return Step(name, "", given or {}, gives or {}, fails, saves or {})


def agent_of(kind: str = "STREAM", *, save: str = "agent", **fields: Any) -> Step:
    """Registers an agent of a kind."""
    return call(
        "create_agent",
        {"name": f"a {kind.lower()}", "kind": f"AGENT_KIND_{kind}", **fields},
        saves={save: "agentId"},
    )


def connect(
    *script: Mapping[str, Any] | str,
    agent: str = "$agent",
    tells: Sequence[Any] | None = None,
    fails: Fails | None = None,
    **hello: int,
) -> Step:
    """A worker that says hello and then plays a script: a text is what it waits to be told, an object what it
    says.

    What it says is about the delivery that it got last, unless it names one. `posted` is said by
    AgentService.Reply.
    """
    given = {"hello": {"agentId": agent, **hello}, "script": list(script)}
    return Step("connect", "", given, {} if tells is None else {"told": list(tells)}, fails)


def told(event: str, **fields: Any) -> Some:
    """Something that a worker is told."""
    return Some({"event": event, **fields})


def refused(code: str, **fields: Any) -> Some:
    """What a worker is told of something that was not accepted."""
    return told("refused", reason=code, **fields)


def on_every_call(fails: Fails, session: Any = "$sid", *, but_delete: bool = False) -> list[Step]:
    """Every call on a session, with valid input, failing alike."""
    steps = [
        get(session, fails=fails),
        send(session, fails=fails),
        messages(session, fails=fails),
        renew(session, fails=fails),
        patch(session, timeoutMinutes=10, fails=fails),
        heartbeat(session, fails=fails),
    ]
    return steps if but_delete else [*steps, delete(session, fails=fails)]
