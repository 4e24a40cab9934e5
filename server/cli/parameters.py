"""Values on the command line that several commands read."""

from datetime import datetime

import click

from server.domain.errors import InvalidUuidError
from server.domain.ids import uuid_field


def read_id(context: click.Context, option: click.Parameter, text: str | None) -> str | None:
    """A UUID in lower case. Raises BadParameter."""
    try:
        return text and uuid_field("id", text)
    except InvalidUuidError as error:
        raise click.BadParameter(f"{text!r} is no UUID", context, option) from error


def read_instant(context: click.Context, option: click.Parameter, text: str | None) -> datetime | None:
    """An instant, whose text has an offset. Raises BadParameter."""
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        why = "is no time with an offset, as 2027-01-31T12:00:00Z is"
        raise click.BadParameter(f"{text!r} {why}", context, option)
    return instant
