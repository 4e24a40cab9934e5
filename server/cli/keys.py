"""`eliza-sessions keys …`: the file of the keys with which callers identify themselves."""

import os
import secrets
from datetime import datetime
from pathlib import Path

import click

from eliza.sessions.times import iso
from server.access.keys import ROLES, SHARES, Key, decode, digest_of, make_key, read_keys
from server.access.keys_text import add_key, lock_directory, remove_keys, write_atomically
from server.cli.agent_display import print_rows
from server.cli.chat import printable
from server.cli.common import settings_or_exit
from server.cli.files import explain_file
from server.cli.parameters import read_instant
from server.clock import SystemClock
from server.domain.access import Role


@click.group()
def keys() -> None:
    """Add, list and revoke the keys of callers.

    A running service notices a change of the file within a second.
    """


_file_option = click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The keys file.  [KEYS_FILE]",
)


@keys.command()
@click.option("--role", required=True, type=click.Choice([str(role) for role in ROLES]), help="What it may.")
@click.option(
    "--id",
    "key_id",
    metavar="ID",
    help="What logs call it. A second key of an id takes over from the first.  [ROLE and random digits]",
)
@click.option("--tenant", default="", help="Whose sessions it has; `*` all, for an admin.  [the empty one]")
@click.option("--user", default="", metavar="UUID", help="The user of a key with the role user.")
@click.option("--agent", default="", metavar="UUID", help="The agent of a key with the role agent.")
@click.option(
    "--not-after",
    metavar="TIME",
    callback=read_instant,
    help="When it expires: 2027-01-31T12:00:00Z.  [never]",
)
@click.option(
    "--share",
    type=float,
    help="The part of any bound that it may have under way.  [1; 0.5 for users and agents]",
)
@click.option(
    "--certificate", default="", metavar="SAN", help="A client certificate with this name is it, too."
)
@_file_option
def add(
    role: str,
    key_id: str | None,
    tenant: str,
    user: str,
    agent: str,
    not_after: datetime | None,
    share: float | None,
    certificate: str,
    file: Path | None,
) -> None:
    """Make a key, and write its digest into the file, which is made where it is missing.

    The key itself goes to standard output. It is shown this once, and stored nowhere.
    """
    path = _path(file)
    key_id = f"{role}-{secrets.token_hex(4)}" if key_id is None else key_id
    secret = make_key(key_id)
    key = Key(
        key_id,
        digest_of(secret),
        Role(role),
        tenant,
        user,
        agent,
        None if not_after is None else round(not_after.timestamp() * 1000),
        SHARES.get(Role(role), 1.0) if share is None else share,
        certificate,
    )
    with explain_file(path, ValueError), lock_directory(path):
        text = _read_text(path) if path.exists() else ""
        # First as it is, so that an earlier fault is not taken for one of the new key.
        read_keys(text, _now_ms())
        added = add_key(text, key)
        read_keys(added, _now_ms())
        write_atomically(path, added)
    click.echo(f"added the key {key_id} with the role {role} to {path}", err=True)
    click.echo(secret)


@keys.command("list")
@_file_option
def list_keys(file: Path | None) -> None:
    """Show the keys of the file as a table, without their digests."""
    path = _path(file)
    with explain_file(path, ValueError):
        found = read_keys(_read_text(path), _now_ms())
    rows = [("ID", "ROLE", "TENANT", "ONLY FOR", "EXPIRES", "SHA256")]
    rows += [
        (
            key.id,
            str(key.role),
            printable(key.tenant),
            _narrowed(key),
            _expiry(key),
            f"{key.digest.hex()[:8]}…",
        )
        for key in found
    ]
    print_rows(rows)


@keys.command()
@click.argument("key_id", metavar="ID")
@click.option("--older", is_flag=True, help="Only the one that stands first in the file, of two.")
@_file_option
def revoke(key_id: str, older: bool, file: Path | None) -> None:
    """Remove the keys of an id. Streams that were opened with them end."""
    path = _path(file)
    with explain_file(path, ValueError), lock_directory(path):
        text = _read_text(path)
        found = [place for place, key in enumerate(read_keys(text, _now_ms())) if key.id == key_id]
        if not found:
            raise ValueError(f"there is no key {key_id!r}")
        if older and len(found) == 1:
            raise ValueError(f"there is one key {key_id!r} only: revoke it without --older")
        removed = found[:1] if older else found
        write_atomically(path, remove_keys(text, removed))
    click.echo(f"revoked {len(removed)} of {len(found)} keys of {key_id}")


def _path(file: Path | None) -> Path:
    """The keys file, behind any links. Ends the command where none is named."""
    name = settings_or_exit(keys_file=None if file is None else str(file)).keys_file
    if name is None:
        raise click.UsageError("there is no keys file: say --file, or set KEYS_FILE")
    return Path(os.path.realpath(name))


def _read_text(path: Path) -> str:
    return decode(path.read_bytes())


def _narrowed(key: Key) -> str:
    if key.user_id or key.agent_id:
        return f"{key.role} {key.user_id or key.agent_id}"
    return "" if not key.certificate else printable(key.certificate)


def _expiry(key: Key) -> str:
    if key.not_after_ms is None:
        return "never"
    return iso(key.not_after_ms) + (" (expired)" if key.not_after_ms <= _now_ms() else "")


def _now_ms() -> int:
    return SystemClock().now_ms()
