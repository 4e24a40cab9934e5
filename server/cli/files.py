"""Shared by the commands that read and write files of the user's."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click


@contextmanager
def explain_file(path: Path, *faults: type[Exception]) -> Iterator[None]:
    """Ends the command with a line where a file cannot be read or written, or has one of the faults."""
    try:
        yield
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from error
    except faults as error:
        raise click.ClickException(f"{path}: {error}") from error
