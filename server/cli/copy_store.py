"""`eliza-sessions copy-store`: takes a store along to another place, and to the other back end."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

import click

from server.cli.common import progress_bar, settings_or_exit
from server.store import maintenance
from server.store.copying import Copied, CopyStoppedError, copy
from server.store.options import SharedOptions
from server.store.tools import StoreTools
from server.store.values import CopyError, StoreOpenError


@click.command("copy-store")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
def copy_store(source: str, target: str) -> None:
    """Copy the store at FROM to TO, from SQLite to PostgreSQL or back, and verify the copy.

    Both are URLs as in DATABASE_URL. FROM is only read, and nobody may be serving it; TO must be empty, or
    not there yet. However the copy is interrupted, the same command goes on with it; nobody can serve TO
    before it is finished. At the end each table is read from both: the number of its rows and a digest of
    them must be the same, and are printed.

    Not copied are what removed sessions have left for the purge, a test clock, and notes of backups. Messages
    that an agent has in hand are given out anew.
    """
    options = settings_or_exit().shared_options
    read, written = _tools("FROM", source, options), _tools("TO", target, options)
    if read.place == written.place:
        raise click.UsageError("FROM and TO are the same")
    with _stopping() as should_stop:
        copied = _copy(read, written, should_stop)
    width = max(len(one.table) for one in copied)
    for one in copied:
        click.echo(f"{one.table:<{width}}  {one.rows:>12}  {one.digest}")
    click.echo(f"{written.place} holds what {read.place} holds: {sum(one.rows for one in copied)} rows")


def _tools(name: str, url: str, options: SharedOptions) -> StoreTools:
    try:
        return maintenance(url, options)
    except StoreOpenError as error:
        # The text is that of the setting.
        raise click.ClickException(str(error).replace("DATABASE_URL", name, 1)) from error


def _copy(read: StoreTools, written: StoreTools, should_stop: Callable[[], bool]) -> list[Copied]:
    """Copies, with a progress bar where somebody watches."""
    done, total = 0, 0
    with ExitStack() as opened:
        try:
            source = opened.enter_context(read.copy_source())
            target = opened.enter_context(written.copy_target())
            show = opened.enter_context(progress_bar(f"{read.place} to {written.place}"))

            def tell(now_done: int, of: int) -> None:
                nonlocal done, total
                done, total = now_done, of
                show(done, total)

            return copy(source, target, tell, should_stop)
        except CopyStoppedError as error:
            raise click.ClickException(
                f"stopped after {done} of {total} steps: the same command goes on from there; until then "
                f"{written.place} cannot be served"
            ) from error
        except (CopyError, StoreOpenError) as error:
            raise click.ClickException(str(error)) from error


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed, or SIGTERM has come. The next one ends the process at once."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
