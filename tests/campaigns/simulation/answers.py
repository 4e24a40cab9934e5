"""What clients are answered, compared with what the model allows."""

from typing import TYPE_CHECKING, Any

from eliza.sessions.v1 import message_service_pb2 as messages_pb
from server.domain.errors import DomainError
from server.rpc.call import Call as Context
from tests.campaigns.simulation.calls import CALL, CALLS, Call, message_request, sent
from tests.campaigns.simulation.settings import REPLY_SECONDS
from tests.campaigns.simulation.state import Refusal, State, require
from tests.campaigns.simulation.translation import message, received

if TYPE_CHECKING:
    from tests.campaigns.simulation.world import World

UNAVAILABLE = Refusal("UNAVAILABLE")


async def answered(world: "World", call: Call, life: int) -> None:
    """Makes a call, and judges its answer when it comes, unless the service has crashed meanwhile."""
    CALL.set(call)
    arguments = call.arguments = {**call.arguments, "at": world.now_ms()}
    call.at_once = world.model.before_write(arguments, arguments["at"])
    try:
        if arguments.get("converse"):
            await _converse(world, call)
            return
        answer: Any = await CALLS[arguments["kind"]](world, arguments)
    except DomainError as error:
        answer = Refusal(error.reason)
    finally:
        if life == world.life:
            world.calls.pop(call, None)
    if life == world.life:
        _judge(world, call, answer)


def _judge(world: "World", call: Call, answer: Any) -> None:
    now, etag = world.now_ms(), None
    world.note("answer", call.arguments["kind"], answer)
    wanted = call.answers
    if wanted is None or call.at_once is not None:
        wanted = [] if call.at_once is None else [call.at_once]
        wanted += [UNAVAILABLE] if world.stopping else []
    if isinstance(answer, dict):
        world.counts["replays"] += answer.get("replayed", False)
        if "session" in answer:
            etag = answer["session"].pop("etag")
        states = [
            one["session"]
            for one in wanted
            if isinstance(one, dict) and isinstance(one.get("session"), State)
        ]
        wanted = [
            {"session": one["session"].view(now)}
            if isinstance(one, dict) and isinstance(one.get("session"), State)
            else one
            for one in wanted
        ]
        if etag and states:
            world.model.saw_etag(call.arguments["session"], etag, states[0])
    else:
        world.counts[f"refused: {answer.reason}"] += 1
    require(answer in wanted, f"{call.arguments} was answered {answer}, which should be one of {wanted}")


async def _converse(world: "World", call: Call) -> None:
    """Sends a message and follows its reply."""
    life, began = world.life, world.now_ms()
    stream = world.message_service.Converse(
        messages_pb.ConverseRequest(message=message_request(call.arguments)), Context(None)
    )
    sequence = 0
    try:
        async for part in stream:
            response = received(messages_pb.ConverseResponse, part)
            if life != world.life:
                return
            match response.WhichOneof("part"):
                case "user_message":
                    sequence = response.user_message.message.sequence
                    _judge(world, call, sent(response.user_message))
                case "reply":
                    log = world.model.log_of(call.arguments["session"])
                    reply = message(response.reply)
                    stored = log[reply["sequence"] - 1]
                    same = stored["content"] == reply["content"] and reply[
                        "answers"
                    ] == sequence == stored.get("answers")
                    require(same, "the reply to", sequence, "was", reply, "but is", stored)
                    world.counts["replies followed"] += 1
    except DomainError as error:
        if life != world.life:
            return
        world.note("converse", error.reason)
        if not sequence:
            _judge(world, call, Refusal(error.reason))
            return
        _judge_end(world, call, sequence, error.reason, world.now_ms() - began)


def _judge_end(world: "World", call: Call, sequence: int, reason: str, waited: int) -> None:
    """A reply that did not come."""
    session = world.model.sessions.get(call.arguments["session"])
    ends = [entry for entry in session.log if entry.get("answers") == sequence] if session else []
    # What has come in this very second may not have been told yet.
    due = any(entry["at"] < world.now_ms() - 1000 for entry in ends)
    right = {
        "AGENT_REPLY_TIMEOUT": (waited >= REPLY_SECONDS * 1000 and not due) or world.stopping,
        "AGENT_REPLY_FAILED": any(entry["kind"] == "reply_failure" for entry in ends),
        "SESSION_EXPIRED": session is not None and session.is_expired(world.now_ms()),
        "SESSION_NOT_FOUND": session is None,
        "UNAVAILABLE": world.stopping,
    }
    require(right.get(reason), "there is no reply to", sequence, "of", call.arguments, "because of", reason)
