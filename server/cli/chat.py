"""A conversation with an agent on the command line: lines go in, replies come out."""

import sys
import unicodedata
from collections.abc import Iterator
from functools import partial
from typing import Final

import click
import grpc

from eliza.sessions.errors import error_info
from eliza.sessions.texts import is_text
from eliza.sessions.v1 import agent_pb2, agent_service_pb2, message_pb2, message_service_pb2
from eliza.sessions.v1.admin_service_pb2_grpc import AdminServiceStub
from eliza.sessions.v1.agent_service_pb2_grpc import AgentServiceStub
from eliza.sessions.v1.message_service_pb2_grpc import MessageServiceStub
from eliza.sessions.v1.session_service_pb2_grpc import SessionServiceStub
from eliza.sessions.v1.user_data_service_pb2_grpc import UserDataServiceStub
from server.cli.interrupts import Reading

REPLY_SECONDS: Final = 3660
"""How long `chat` waits for a reply: a little longer than the server at its highest setting."""

DEADLINE_SECONDS: Final = 15
"""How long a call may take: longer than a server waits for its database by default, so that it can answer."""

NO_REPLY: Final = ("AGENT_REPLY_FAILED", "AGENT_REPLY_TIMEOUT")
SURVIVED: Final = (*NO_REPLY, "INVALID_CONTENT")
"""The errors after which the conversation goes on."""

_STEERING: Final = ("Cc", "Zl", "Zp")
"""The categories of control characters and of separators that end a line."""

_TURNING: Final = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
"""The bidirectional classes of characters that turn the direction of the text around them."""


class Stubs:
    """The services of a server."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.agents = AgentServiceStub(channel)
        self.sessions = SessionServiceStub(channel)
        self.messages = MessageServiceStub(channel)
        self.user_data = UserDataServiceStub(channel)
        self.admin = AdminServiceStub(channel)


def printable(text: str, keep: str = "") -> str:
    """Replaces by spaces, but for `keep`, what would steer the terminal or turn the direction of a line."""
    return "".join(" " if _steers(one) and one not in keep else one for one in text)


def _steers(one: str) -> bool:
    return unicodedata.category(one) in _STEERING or unicodedata.bidirectional(one) in _TURNING


def talk(stubs: Stubs, agent: agent_pb2.Agent, session_id: str) -> bool:
    """Sends each line of the standard input and prints the replies. Returns whether all got a reply.

    Raises ClickException when the conversation cannot go on.
    """
    live, all_replied = sys.stdout.isatty(), True
    interactive = live and sys.stdin.isatty()
    if agent.kind == agent_pb2.AGENT_KIND_STREAM and not agent.status.connected_workers:
        _tell("no worker of the agent is connected: messages wait until one is")
    if interactive:
        _tell(f"You talk to {printable(agent.name)}. Ctrl-D ends it.")
    try:
        for line in _lines(interactive):
            if not line.strip():
                continue
            if not is_text(line):
                _tell("not sent: the line is not UTF-8")
                all_replied = False
                continue
            all_replied &= _say(stubs, agent, session_id, line, live)
    except KeyboardInterrupt:
        click.echo()
    return all_replied


def _say(stubs: Stubs, agent: agent_pb2.Agent, session_id: str, line: str, live: bool) -> bool:
    """Sends a message and prints its reply; returns whether there is one."""
    message = message_service_pb2.SendMessageRequest(session_id=session_id, content=line)
    request = message_service_pb2.ConverseRequest(message=message)
    converse = partial(stubs.messages.Converse, request, timeout=REPLY_SECONDS)
    shown, sent_id = "", ""
    try:
        with Reading() as reading:
            for part in reading.begin(converse):
                match part.WhichOneof("part"):
                    case "user_message":
                        sent_id = part.user_message.message.message_id
                    case "chunk" if live:
                        shown += part.chunk.chunk
                        _print(part.chunk.chunk)
                    case "aborted" if shown:
                        shown = ""
                        _take_back()
                    case "reply":
                        _print_reply(part.reply, shown)
                        return True
    except grpc.RpcError as error:
        if shown:
            _take_back()
        info = error_info(error)
        if info is None or info.reason not in SURVIVED:
            raise click.ClickException(f"{error.code().name}: {error.details()}") from error
        _tell(printable(f"{'no reply' if info.reason in NO_REPLY else 'not sent'}: {error.details()}"))
        if info.reason in NO_REPLY:
            _tell_detail(stubs, agent, sent_id)
        return False
    raise click.ClickException("the server ended the conversation without a reply")


def _print_reply(reply: message_pb2.Message, shown: str) -> None:
    """Prints the rest of a reply behind its pieces; all of it where the pieces were not its beginning."""
    if not reply.content.startswith(shown):
        _take_back()
        shown = ""
    _print(f"{reply.content[len(shown) :]}\n")


def _print(text: str) -> None:
    click.echo(printable(text, keep="\n\t"), nl=False)


def _take_back() -> None:
    """Says that the pieces on the screen are void."""
    click.echo()
    _tell("that is taken back")


def _tell_detail(stubs: Stubs, agent: agent_pb2.Agent, message_id: str) -> None:
    """Prints the agent's own words about a message without a reply, where the server knows them."""
    request = agent_service_pb2.GetAgentRequest(agent_id=agent.agent_id, view=agent_pb2.AGENT_VIEW_STATUS)
    try:
        failure = stubs.agents.GetAgent(request, timeout=DEADLINE_SECONDS).agent.status.last_failure
    except grpc.RpcError as error:
        _tell(f"why is not known: {error.code().name}: {error.details()}")
        return
    if failure.message_id == message_id:
        said = "; ".join(filter(None, (failure.reason, failure.detail)))
        _tell(f"attempt {failure.attempt}: {printable(said)}")


def _tell(text: str) -> None:
    click.echo(f"[{text}]", err=True)


def _lines(interactive: bool) -> Iterator[str]:
    """The lines of the standard input. Bytes that are not UTF-8 become surrogates."""
    if not interactive:
        for raw in sys.stdin.buffer:
            yield raw.decode(errors="surrogateescape").rstrip("\r\n")
        return
    import readline  # noqa: F401 - the import alone makes input() edit and remember lines

    while True:
        try:
            yield input("> ")
        except EOFError:
            click.echo()
            return
        except UnicodeDecodeError:
            yield "\ud800"
