"""What the tests of sockets do and ask in a room."""

from tests.support.realtime.sockets import Client
from tests.support.service import Serve

LONE = "\ud800"


def origin(service: Serve) -> str:
    return f"http://{service.rest}"


def joined(client: Client, room: str, **more: object) -> Client:
    """Joins a room and waits until it is in it."""
    assert client.call("join", {"roomId": room, **more}) == {"success": True}
    return client


def texts(client: Client, *, agent: bool) -> list[str]:
    return [payload["text"] for payload in client.named("messageBroadcast") if payload["isAgent"] is agent]


def contiguous(sequences: list[int]) -> bool:
    return sequences == list(range(sequences[0], sequences[0] + len(sequences)))
