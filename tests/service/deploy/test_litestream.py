"""deploy/litestream/litestream.yml: the store is copied while the service writes, and restored elsewhere."""

import itertools
import shlex
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.service.deploy.programs import DEPLOY, PROGRAMS, program, run, running
from tests.service.docs.pages import ROOT, example
from tests.support.clients import create, history, send
from tests.support.clients import run as run_command
from tests.support.service import Serve, Start, environment
from tests.support.waiting import until

pytestmark = pytest.mark.deploy("litestream")

NAME = "eliza-sessions.db"
SAMPLE = DEPLOY / "litestream/litestream.yml"
MESSAGES = 200


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """The sample, with the store and the copies in the test's directory."""
    sample = SAMPLE.read_text()
    for old, new in (
        ("/var/lib/eliza-sessions/", f"{tmp_path}/store/"),
        ("/var/backups/eliza-sessions", f"{tmp_path}/copies"),
    ):
        assert sample.count(old) == 1
        sample = sample.replace(old, new)
    path = tmp_path / "litestream.yml"
    path.write_text(sample)
    return path


@contextmanager
def replicating(settings: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Litestream beside the service, once it has copied for the first time."""
    name, *arguments = shlex.split(
        example("litestream").replace(str(SAMPLE.relative_to(ROOT)), str(settings))
    )
    line = [program(name), *arguments]
    with running(line, settings.parent, "litestream.log") as process:
        until(lambda: count_copies(settings), "the first copy")
        yield process


def count_copies(settings: Path) -> int:
    """How many files of changes there are in the other place."""
    return len(list((settings.parent / "copies").rglob("*.ltx")))


def count_messages(store: Path) -> int:
    """How many messages a store has."""
    with closing(sqlite3.connect(store)) as connection:
        return int(connection.execute("SELECT count(message_id) FROM log").fetchone()[0])


def restored(settings: Path, place: str = "restored") -> Path:
    """Restores the store on another machine, as the docs have it, and checks it."""
    directory = settings.parent / place
    directory.mkdir()
    new, old = directory / NAME, settings.parent / "store" / NAME
    script = example("litestream-restore")
    for word, path in (
        (f"sqlite:////var/lib/eliza-sessions/{NAME}", f"sqlite:///{new}"),
        (f"/var/lib/eliza-sessions/{NAME}", str(old)),
        (str(SAMPLE.relative_to(ROOT)), str(settings)),
    ):
        assert script.count(word) == 1
        script = script.replace(word, path)
    said = run("bash", "-euc", script, cwd=directory, env=environment(PATH=PROGRAMS))
    assert f"{new} is sound" in said
    return new


def begin(start: Start, directory: Path) -> Serve:
    """A service on the store in this directory."""
    return start("--no-rest", directory=directory, DATABASE_URL=f"sqlite:///{directory / NAME}")


def ask(service: Serve, session_id: str) -> list[str]:
    """Sends messages, one after the other; returns their contents."""
    contents = [f"message {number}" for number in range(MESSAGES)]
    for content in contents:
        send(service, session_id, content)
    return contents


def said(service: Serve, session_id: str) -> list[str]:
    """The user's messages that a session has."""
    return [message.content for message in history(service, session_id) if not message.is_agent]


def test_nothing_is_missing_where_the_service_was_killed_and_litestream_was_not(
    settings: Path, start: Start
) -> None:
    service = begin(start, settings.parent / "store")
    session_id = create(service).session_id
    with replicating(settings):
        contents = ask(service, session_id)
        service.kill()
    # Its stop has copied the rest.
    again = begin(start, restored(settings).parent)
    assert said(again, session_id) == contents
    send(again, session_id, "after")
    assert said(again, session_id) == [*contents, "after"]


def test_what_was_copied_is_sound_where_the_machine_is_lost(settings: Path, start: Start) -> None:
    service = begin(start, settings.parent / "store")
    session_id = create(service).session_id
    with replicating(settings) as litestream:
        before = count_copies(settings)
        contents = ask(service, session_id)
        until(lambda: count_copies(settings) > before, "a copy, of the session at least")
        send(service, session_id, contents[0])
        # A file more may have the session alone.
        looks = itertools.count()
        until(lambda: count_messages(restored(settings, f"look-{next(looks)}")), "a copy of some messages")
        litestream.kill()
        service.kill()
    again = begin(start, restored(settings).parent)
    got = said(again, session_id)
    # All up to a moment, which is at most the interval before the end.
    assert got == [*contents, contents[0]][: len(got)]
    assert got


def test_the_service_and_its_own_commands_get_on_with_it(settings: Path, start: Start) -> None:
    """With Litestream beside it the service stops and starts, and check and backup do as ever."""
    store = settings.parent / "store"
    first = begin(start, store)
    session_id = create(first).session_id
    with replicating(settings):
        contents = ask(first, session_id)
        assert first.stop() == 0
        second = begin(start, store)
        assert said(second, session_id) == contents
        url = f"sqlite:///{store / NAME}"
        for command in (["check"], ["backup", str(settings.parent / "backup.db")]):
            done = run_command(*command, cwd=settings.parent, DATABASE_URL=url)
            assert done.status == 0, done.errors
        send(second, session_id, "after")
        assert second.stop() == 0
    third = begin(start, restored(settings).parent)
    assert said(third, session_id) == [*contents, "after"]
