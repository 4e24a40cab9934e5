"""`eliza-sessions users …`: what a running server has about a user, listed, handed out and erased."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import click
import orjson
from google.protobuf.json_format import MessageToDict

from eliza.sessions.limits import MAX_SESSIONS
from eliza.sessions.v1 import session_pb2
from eliza.sessions.v1 import user_data_service_pb2 as pb
from server.cli.agent_display import iso, print_json
from server.cli.chat import Stubs, printable
from server.cli.files import explain_file
from server.cli.server_commands import ServerGroup, explain_failure, server_options
from server.domain.errors import InvalidUuidError
from server.domain.ids import uuid_field

CALL_SECONDS: Final = 30
STREAM_SECONDS: Final = 24 * 3600
"""How long a page, and a whole export or erase, may take."""

_ROW: Final = "{:36}  {:36}  {:24}  {:24}  {}"


@click.group(cls=ServerGroup)
@server_options("The gRPC server.")
def users() -> None:
    """List, hand out and erase what a running server has about a user.

    USER is the user's id, a UUID. A protected server wants an administrator's key.
    """


def _read_user(context: click.Context, argument: click.Parameter, text: str) -> str:
    try:
        return uuid_field("user_id", text)
    except InvalidUuidError as error:
        why = "is no UUID; a user is named by the id that its sessions were created with"
        raise click.BadParameter(f"{text!r} {why}", context, argument) from error


_user_argument = click.argument("user", callback=_read_user)


@users.command("list")
@_user_argument
@click.option("--json", "as_json", is_flag=True, help="Print JSON Lines, for programs.")
@click.pass_obj
def list_sessions(stubs: Stubs, user: str, as_json: bool) -> None:
    """Show the sessions of USER, live and expired, the newest first."""
    for number, page in enumerate(_iterate_pages(stubs, user)):
        if not as_json and number == 0:
            click.echo(_ROW.format("ID", "AGENT", "CREATED", "EXPIRES", "STATE"))
        for session in page:
            click.echo(orjson.dumps(MessageToDict(session)) if as_json else _row(session))


@users.command()
@_user_argument
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where to write it, for its owner alone to read.  [standard output]",
)
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@click.pass_obj
def export(stubs: Stubs, user: str, output: Path | None, force: bool) -> None:
    """Write all that the server has about USER as JSON Lines.

    Each line says in `record` what it is: a `session`, followed by each `entry` of its log. FILE appears once
    it is whole.
    """
    if output is None:
        _write_export(stubs, user, sys.stdout.buffer)
        return
    with explain_file(output), _whole_file(output, overwrite=force) as file:
        _write_export(stubs, user, file)
    click.echo(f"{output}: {output.stat().st_size} bytes", err=True)


@users.command()
@_user_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print the receipt as JSON, for programs.")
@click.pass_obj
def erase(stubs: Stubs, user: str, yes: bool, as_json: bool) -> None:
    """Erase all that the server has about USER, and print a receipt. Asks before.

    An erase that broke off may be repeated. Backups are not covered: the receipt says so.
    """
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("there is nobody to ask whether to erase the user's data: say --yes")
        click.confirm(f"Erase all about {user} ({_count_sessions(stubs, user)})? It is lost.", abort=True)
    receipt = _erase(stubs, user)
    if as_json:
        print_json(_receipt_json(receipt))
    else:
        _print_receipt(receipt)


def _iterate_pages(stubs: Stubs, user: str) -> Iterator[Sequence[session_pb2.Session]]:
    """All sessions of a user, page by page; at least one page."""
    request = pb.ListUserSessionsRequest(user_id=user)
    while True:
        with explain_failure():
            page = stubs.user_data.ListUserSessions(request, timeout=CALL_SECONDS)
        yield page.sessions
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _count_sessions(stubs: Stubs, user: str) -> str:
    """How many sessions a user has, in words."""
    request = pb.ListUserSessionsRequest(user_id=user, page_size=MAX_SESSIONS)
    with explain_failure():
        page = stubs.user_data.ListUserSessions(request, timeout=CALL_SECONDS)
    if page.next_page_token:
        return f"more than {MAX_SESSIONS} sessions"
    return "1 session" if len(page.sessions) == 1 else f"{len(page.sessions)} sessions"


def _write_export(stubs: Stubs, user: str, file: BinaryIO) -> None:
    with explain_failure():
        for part in stubs.user_data.ExportUserData(
            pb.ExportUserDataRequest(user_id=user), timeout=STREAM_SECONDS
        ):
            file.write(part.lines)
    file.flush()


def _erase(stubs: Stubs, user: str) -> pb.DeleteUserDataResponse.Receipt:
    """Erases, with a progress bar where somebody watches; returns the receipt."""
    with explain_failure():
        events = stubs.user_data.DeleteUserData(
            pb.DeleteUserDataRequest(user_id=user), timeout=STREAM_SECONDS
        )
        if not sys.stderr.isatty():
            return _last_receipt(events)
        with click.progressbar(length=1, label=f"Erasing {user}", file=sys.stderr) as bar:

            def show(progress: pb.DeleteUserDataResponse.Progress) -> None:
                bar.length, bar.pos = progress.total_rows, progress.removed_rows
                bar.render_progress()

            receipt = _last_receipt(events, show)
            bar.pos = bar.length or 0
            bar.render_progress()
            return receipt


def _last_receipt(
    events: Any, show: Callable[[pb.DeleteUserDataResponse.Progress], None] | None = None
) -> pb.DeleteUserDataResponse.Receipt:
    """Reads the events of an erase to the end."""
    for event in events:
        if event.HasField("receipt"):
            receipt: pb.DeleteUserDataResponse.Receipt = event.receipt
            return receipt
        if show:
            show(event.progress)
    raise click.ClickException("the server has not said that it is done: repeat the command")


def _row(session: session_pb2.Session) -> str:
    state = "near its end" if session.is_near_expiration else "live"
    if session.time_remaining_ms == 0:
        state = "expired"
    return _ROW.format(
        session.session_id, session.agent_id, iso(session.created_at), iso(session.expires_at), state
    )


def _print_receipt(receipt: pb.DeleteUserDataResponse.Receipt) -> None:
    click.echo(f"erased:      {iso(receipt.erased_at)}")
    click.echo(f"user:        {receipt.user_id}")
    click.echo(f"sessions:    {receipt.sessions}")
    click.echo(f"entries:     {receipt.entries}")
    click.echo(f"deliveries:  {receipt.deliveries}")
    click.echo(f"request ids: {receipt.request_ids}")
    for text in receipt.not_covered:
        click.echo(f"not covered: {printable(text)}")


def _receipt_json(receipt: pb.DeleteUserDataResponse.Receipt) -> dict[str, Any]:
    """A receipt as JSON. Programs rely on these names: add more, change none."""
    return {
        "userId": receipt.user_id,
        "sessions": receipt.sessions,
        "entries": receipt.entries,
        "deliveries": receipt.deliveries,
        "requestIds": receipt.request_ids,
        "erasedAt": iso(receipt.erased_at),
        "notCovered": list(receipt.not_covered),
    }


@contextmanager
def _whole_file(path: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """A file for its owner alone, which gets its name once it is whole. Raises OSError."""
    if path.exists() and not overwrite:
        raise FileExistsError(0, "it is there already: say --force to overwrite it")
    if path.exists() and not path.is_file():
        raise FileExistsError(0, "it is no file that could be overwritten")
    # Only its owner can read it.
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(name, path)
        else:
            os.link(name, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)
