"""A client of event streams that reads every event."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import requests

from tests.support.clients import replies, send
from tests.support.service import Serve

Body = dict[str, Any]


class Event(NamedTuple):
    """A piece of a stream: an event, or a comment or a `retry:` by itself."""

    name: str
    data: Body
    id: int | None = None


class Stream:
    """A `text/event-stream` over plain HTTP, read piece by piece."""

    def __init__(self, url: str, method: str = "GET", **options: Any) -> None:
        self.response = requests.request(method, url, stream=True, timeout=15, **options)
        self._lines = self.response.iter_lines(chunk_size=1)

    def pieces(self) -> Iterator[Event]:
        fields: dict[str, str] = {}
        for raw in self._lines:
            line = raw.decode()
            if line:
                name, _, value = line.partition(":")
                fields[name] = value.removeprefix(" ")
            elif "" in fields:
                yield Event("comment", fields)
                fields = {}
            elif "retry" in fields:
                yield Event("retry", fields)
                fields = {}
            else:
                yield Event(
                    fields["event"], json.loads(fields["data"]), int(fields["id"]) if "id" in fields else None
                )
                fields = {}

    def take(self, count: int) -> list[Event]:
        """The next events, without comments and `retry:`."""
        found: list[Event] = []
        for piece in self.pieces():
            if piece.name not in ("comment", "retry"):
                found.append(piece)
            if len(found) == count:
                break
        return found

    def entries(self, count: int) -> list[Event]:
        """The next entries of the log, without the pieces of replies."""
        found: list[Event] = []
        while len(found) < count:
            (piece,) = self.take(1) or pytest.fail(f"the stream ended after {found}")
            if piece.id is not None:
                found.append(piece)
        return found


def events_url(service: Serve, session_id: str, query: str = "") -> str:
    return f"{service.url}/{session_id}/events{query}"


def talked(service: Serve, count: int, **body: Any) -> str:
    """A session in which so many messages were sent and answered."""
    session_id = service.create(**body)["sessionId"]
    for number in range(count):
        send(service, session_id, f"message {number}")
        replies(service, session_id, number + 1)
    return session_id


def code(response: requests.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]
