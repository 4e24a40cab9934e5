"""Users of a protected service with something to list, hand out and erase."""

import uuid
from typing import Any

from google.protobuf import struct_pb2

from eliza.sessions.v1 import (
    clock_service_pb2,
    message_service_pb2,
    session_service_pb2,
    user_data_service_pb2,
)
from eliza.sessions.v1.user_data_service_pb2_grpc import UserDataServiceStub
from tests.service.access.world import AGENT, World

SECONDS = 60


def new_user() -> str:
    return str(uuid.uuid4())


def stub(world: World) -> UserDataServiceStub:
    return UserDataServiceStub(world.service.channel)


def add_session(
    world: World, user: str, caller: str = "service", agent: str = AGENT, note: str = "", minutes: float = 30
) -> str:
    """Makes a session of a user, with a note in its metadata; returns its id."""
    metadata = struct_pb2.Struct()
    metadata.update({"note": note})
    request = session_service_pb2.CreateSessionRequest(
        agent_id=agent, user_id=user, metadata=metadata, request_id=f"create-{uuid.uuid4()}"
    )
    request.timeout_config.timeout_minutes = minutes
    answer = world.service.sessions.CreateSession(request, metadata=world.metadata(caller), timeout=SECONDS)
    return str(answer.session.session_id)


def say(world: World, session_id: str, *texts: str) -> None:
    """Sends messages, with the text in their metadata, too."""
    calls = []
    for text in texts:
        request = message_service_pb2.SendMessageRequest(
            session_id=session_id, content=text, request_id=f"say-{uuid.uuid4()}"
        )
        request.metadata.update({"own": text})
        calls.append(
            world.service.messages.SendMessage.future(
                request, metadata=world.metadata("service"), timeout=SECONDS
            )
        )
        if len(calls) == 100:
            for call in calls:
                call.result()
            calls.clear()
    for call in calls:
        call.result()


def advance(world: World, minutes: float) -> None:
    """Moves the test clock."""
    request = clock_service_pb2.AdvanceClockRequest(advance_ms=round(minutes * 60_000))
    world.service.clock.AdvanceClock(request, metadata=world.metadata("admin"), timeout=SECONDS)


def list_page(world: World, user: str, caller: str = "admin", size: int = 0, token: str = "") -> Any:
    request = user_data_service_pb2.ListUserSessionsRequest(user_id=user, page_size=size, page_token=token)
    return stub(world).ListUserSessions(request, metadata=world.metadata(caller), timeout=SECONDS)


def listed(world: World, user: str, caller: str = "admin") -> list[str]:
    """The ids of a user's sessions, as they are listed."""
    return [session.session_id for session in list_page(world, user, caller).sessions]


def export(world: World, user: str, caller: str = "admin") -> list[bytes]:
    """The parts of an export."""
    request = user_data_service_pb2.ExportUserDataRequest(user_id=user)
    parts = stub(world).ExportUserData(request, metadata=world.metadata(caller), timeout=SECONDS)
    return [part.lines for part in parts]


def erase(world: World, user: str, caller: str = "admin") -> Any:
    """Erases; returns the receipt."""
    request = user_data_service_pb2.DeleteUserDataRequest(user_id=user)
    *_, last = stub(world).DeleteUserData(request, metadata=world.metadata(caller), timeout=SECONDS)
    return last.receipt
