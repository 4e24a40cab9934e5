"""What the tests of workers read of a session."""

from eliza.sessions.v1 import log_pb2
from tests.support.clients import history, replies
from tests.support.realtime.streams import Watching
from tests.support.service import Serve

UNKNOWN = "99999999-9999-4999-8999-999999999999"
LEASE_SECONDS = 0.4


def exchanged(service: Serve, session_id: str, count: int) -> list[tuple[str, str]]:
    """What was said and what was replied, in the order of the replies, once there are so many."""
    found = replies(service, session_id, count)
    said = {message.sequence: message.content for message in history(service, session_id)}
    return [(said[message.reply_to_sequence], message.content) for message in found]


def failure(service: Serve, session_id: str) -> log_pb2.ReplyFailure:
    """The first failure in the log of a session, once it is there."""
    watching = Watching(service, session_id)
    try:
        while not (entry := watching.entry()).HasField("reply_failure"):
            pass
        return entry.reply_failure
    finally:
        watching.close()
