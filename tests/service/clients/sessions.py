"""A client as the published examples of the Sessions API write one: requests and nothing of this project.

Run as `python sessions.py URL`, where URL is the service's http://HOST:PORT with its test clock on. Exits
with 1 and a message when anything is off.
"""

import datetime as dt
import sys
import time
from collections.abc import Callable
from typing import Any

import requests

ROOT = sys.argv[1]
AGENT = "00000000-0000-4000-8000-0000000000ec"
USER = "456e7890-e89b-12d3-a456-426614174000"


class SessionError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body


class SessionNotFoundError(SessionError):
    """404."""


class SessionExpiredError(SessionError):
    """410."""


class SessionRenewalError(SessionError):
    """422."""


class InvalidContentError(SessionError):
    """400 with `content` in its text."""


class InvalidMetadataError(SessionError):
    """400 with `metadata` in its text."""


class ElizaSessionClient:
    """The calls of the API on one session."""

    def __init__(self, root: str) -> None:
        self.base = f"{root}/api/messaging/sessions"
        self.http = requests.Session()
        self.session_id = ""

    def call(self, method: str, path: str = "", **options: Any) -> dict[str, Any]:
        """Makes a request; raises the error that its status stands for."""
        response = self.http.request(method, f"{self.base}{path}", timeout=10, **options)
        body = response.json()
        if response.ok:
            return body
        kinds = {404: SessionNotFoundError, 410: SessionExpiredError, 422: SessionRenewalError}
        kind = kinds.get(response.status_code, SessionError)
        if response.status_code == 400 and "content" in body["error"]:
            kind = InvalidContentError
        elif response.status_code == 400 and "metadata" in body["error"]:
            kind = InvalidMetadataError
        raise kind(response.status_code, body)

    def create(self, **options: Any) -> dict[str, Any]:
        """Creates a session and stays with it."""
        session = self.call("POST", json={"agentId": AGENT, "userId": USER, **options})
        self.session_id = session["sessionId"]
        return session

    def send(self, content: Any, metadata: Any = None) -> dict[str, Any]:
        """Sends a message."""
        return self.call(
            "POST", f"/{self.session_id}/messages", json={"content": content, "metadata": metadata}
        )

    def history(self, **query: Any) -> dict[str, Any]:
        """A page of the history."""
        return self.call("GET", f"/{self.session_id}/messages", params=query)

    def info(self) -> dict[str, Any]:
        """The session as it stands."""
        return self.call("GET", f"/{self.session_id}")

    def renew(self) -> dict[str, Any]:
        """Renews the session by hand."""
        return self.call("POST", f"/{self.session_id}/renew")

    def heartbeat(self) -> dict[str, Any]:
        """Keeps the session alive."""
        return self.call("POST", f"/{self.session_id}/heartbeat")

    def patch(self, **settings: Any) -> dict[str, Any]:
        """Changes the timeout settings."""
        return self.call("PATCH", f"/{self.session_id}/timeout", json=settings)

    def delete(self) -> dict[str, Any]:
        """Ends the session."""
        return self.call("DELETE", f"/{self.session_id}")


def same(found: Any, wanted: Any, what: str) -> None:
    """Stops the script when something is not as wanted."""
    if found != wanted:
        sys.exit(f"{what}: {found!r} instead of {wanted!r}")


def refused(kind: type[SessionError], call: Callable[[], Any], what: str) -> SessionError:
    """Stops the script unless a call fails in this very way."""
    try:
        answer = call()
    except SessionError as error:
        same(type(error), kind, what)
        same(set(error.body), {"error", "details", "code"}, f"the error of {what}")
        return error
    sys.exit(f"{what} was answered: {answer!r}")


def advance(minutes: float) -> None:
    """Moves the service's clock."""
    requests.post(f"{ROOT}/test/clock", json={"advanceMs": minutes * 60_000}, timeout=10).raise_for_status()


def wait_for(question: Callable[[], Any], what: str) -> Any:
    """Polls, as a client without Socket.IO does."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if answer := question():
            return answer
        time.sleep(0.02)
    sys.exit(f"waited in vain for {what}")


def millis(text: str) -> int:
    """A time of the API, in milliseconds."""
    same(text[-5] + text[-1], ".Z", f"the form of {text}")
    return round(dt.datetime.fromisoformat(text).timestamp() * 1000)


def converse(client: ElizaSessionClient) -> None:
    """A whole conversation."""
    settings = {
        "timeoutMinutes": 20,
        "autoRenew": False,
        "maxDurationMinutes": 60,
        "warningThresholdMinutes": 3,
    }
    session = client.create(metadata={"platform": "python", "plan": {"level": 2}}, timeoutConfig=settings)
    same(session["timeoutConfig"], settings, "the settings")
    same(millis(session["expiresAt"]) - millis(session["createdAt"]), 20 * 60_000, "the time to live")

    advance(1)
    sent = client.send("How are you?\n", {"plan": "none", "sessionId": "forged"})
    same(
        sent["metadata"],
        {"platform": "python", "plan": "none", "sessionId": client.session_id},
        "the metadata of a message",
    )
    status = sent["sessionStatus"]
    same(
        (status["wasRenewed"], status["renewalCount"], status["expiresAt"]),
        (False, 0, session["expiresAt"]),
        "no renewal",
    )

    def answer() -> Any:
        page = client.history(after=millis(sent["createdAt"]), limit=10)
        return next((message for message in page["messages"] if message["isAgent"]), None)

    reply = wait_for(answer, "the reply")
    same((reply["content"], reply["authorId"]), ("How are you?\n", AGENT), "the reply")

    for number in range(7):
        client.send(f"message {number}")
    whole = wait_for(
        lambda: (page := client.history(limit=100)) and len(page["messages"]) == 16 and page, "all replies"
    )
    same(whole["hasMore"], False, "hasMore of the whole")
    times = [millis(message["createdAt"]) for message in whole["messages"]]
    same(times, sorted(set(times), reverse=True), "the order: newest first, no two at once")

    query: dict[str, Any] = {"limit": 3}
    walked = []
    while True:
        page = client.history(**query)
        walked += page["messages"]
        if not page["hasMore"]:
            break
        query["before"] = page["cursors"]["before"]
    same(walked, whole["messages"], "the history backwards")
    query = {"limit": 3, "after": times[-1]}
    walked = []
    while True:
        page = client.history(**query)
        walked = page["messages"] + walked
        if not page["hasMore"]:
            break
        query["after"] = page["cursors"]["after"]
    same(walked, whole["messages"][:-1], "the history forwards from its first message")
    between = client.history(after=times[-1], before=times[0])["messages"]
    same(between, whole["messages"][1:-1], "the history between its ends")

    beat = client.heartbeat()
    same(
        (beat["renewalCount"], beat["expiresAt"]),
        (0, session["expiresAt"]),
        "a heartbeat without automatic renewal",
    )
    renewed = client.renew()
    same((renewed["renewalCount"], renewed["timeRemaining"]), (1, 20 * 60_000), "a renewal by hand")
    patched = client.patch(timeoutMinutes=10, warningThresholdMinutes=10)
    same(
        patched["timeoutConfig"],
        {**settings, "timeoutMinutes": 10, "warningThresholdMinutes": 10},
        "the changed settings",
    )
    same((patched["timeRemaining"], patched["isNearExpiration"]), (10 * 60_000, True), "the changed expiry")
    same(client.info()["lastActivity"], beat["lastActivity"], "the last activity")
    listed = client.call("GET")
    same(
        [one["sessionId"] for one in listed["sessions"]].count(client.session_id),
        1,
        "the session in the list",
    )
    same(
        client.delete(),
        {"success": True, "message": f"Session {client.session_id} deleted successfully"},
        "the end",
    )
    refused(SessionNotFoundError, client.info, "a look at a deleted session")


def tell_errors_apart(client: ElizaSessionClient) -> None:
    """Every error that a client can bring about, by the class it becomes."""
    refused(SessionError, lambda: client.create(userId=None), "a session without a user")
    refused(SessionError, lambda: client.create(agentId="not-a-uuid"), "a session with an id that is no UUID")
    refused(SessionNotFoundError, lambda: client.create(agentId=USER), "a session with an unknown agent")
    refused(
        InvalidMetadataError, lambda: client.create(metadata=[1]), "a session with metadata that is no object"
    )
    session = client.create(timeoutConfig={"timeoutMinutes": 5, "maxDurationMinutes": 8})
    for content in ("", None, 7, "x" * 4001, "a\0b"):
        refused(
            InvalidContentError, lambda content=content: client.send(content), f"the content {content!r:.20}"
        )
    for metadata in ("text", ["list"], {"key": "ä" * 5200}):
        refused(
            InvalidMetadataError,
            lambda metadata=metadata: client.send("a", metadata),
            f"the metadata {metadata!r:.20}",
        )
    refused(SessionError, lambda: client.patch(timeoutMinutes=100_000), "a timeout out of range")
    refused(SessionError, lambda: client.history(before="yesterday"), "a cursor that is no time")
    same(len(client.history()["messages"]), 0, "what the refused messages left")

    advance(4)
    client.heartbeat()
    error = refused(SessionRenewalError, client.renew, "a renewal beyond the maximum duration")
    same(error.body["details"]["maxDurationMinutes"], 8, "the maximum duration in the error")
    advance(4)
    for call in (
        client.info,
        client.history,
        client.renew,
        client.heartbeat,
        lambda: client.send("a"),
        lambda: client.patch(autoRenew=True),
    ):
        error = refused(SessionExpiredError, call, "a call on an expired session")
        same(error.body["details"]["sessionId"], client.session_id, "the session in the error")
        same(
            millis(error.body["details"]["expiresAt"]) - millis(session["createdAt"]),
            8 * 60_000,
            "the expiry in the error",
        )
    client.delete()
    refused(SessionNotFoundError, lambda: client.send("a"), "a message to a deleted session")
    client.session_id = "not-a-uuid"
    refused(SessionNotFoundError, client.info, "a look at a session id that is no UUID")


if __name__ == "__main__":
    converse(ElizaSessionClient(ROOT))
    tell_errors_apart(ElizaSessionClient(ROOT))
    print("all as published")
