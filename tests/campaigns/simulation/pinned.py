"""A world by its seed, with everything pinned that would make it another one the next time."""

import itertools
import random
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import structlog

from server.domain import ids as ids_module
from server.lifecycle import expiry
from server.lifecycle import purge as purge_module
from server.lifecycle import watch as watch_module
from server.store.sqlite import removal as removal_module
from server.store.sqlite import store as sqlite_module
from server.store.sqlite import writer as writer_module
from server.store.sqlite.file import prepare
from tests.campaigns.simulation.store import Writer
from tests.campaigns.simulation.world import World


@cache
def _template() -> bytes:
    """An empty store: migrating one takes longer than a run."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "store.db"
        prepare(path).release()
        return path.read_bytes()


def _numbered(initialise: Callable[..., None]) -> Callable[..., None]:
    numbers = itertools.count()

    def numbered(watch: Any, *arguments: Any, **named: Any) -> None:
        watch.number = next(numbers)
        initialise(watch, *arguments, **named)

    return numbered


@contextmanager
def world_of(seed: int) -> Iterator[World]:
    """A world on a new file, with everything pinned that would make it another one the next time."""
    memory = Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    (directory / "store.db").write_bytes(_template())
    world = World(seed, directory / "store.db")

    def keep(logger: object, level: str, event: dict[str, Any]) -> Any:
        if level in ("error", "critical", "exception"):
            world.errors.append(str(event))
        raise structlog.DropEvent

    state, logging = random.getstate(), structlog.get_config()
    structlog.configure(processors=[keep], cache_logger_on_first_use=False)
    try:
        with (
            mock.patch.object(uuid, "uuid4", world.new_id),
            mock.patch.object(ids_module, "_pool", []),
            mock.patch.object(ids_module, "os", mock.Mock(urandom=lambda count: world.ids.randbytes(count))),
            mock.patch.object(sqlite_module, "SqliteWriter", partial(Writer, world)),
            mock.patch.object(writer_module, "threading"),
            # Watches are kept in sets, whose order would be that of their places in memory.
            mock.patch.object(watch_module.Watch, "__init__", _numbered(watch_module.Watch.__init__)),
            mock.patch.object(watch_module.Watch, "__hash__", lambda watch: watch.number),
            # Nobody sets the clock here, so what is due must be known without looking at it every second.
            mock.patch.object(expiry, "LONGEST_SLEEP_S", 1e6),
            mock.patch.object(purge_module, "STEP_ROWS", 7),
            # So that sessions often leave more than goes together with them; and no step ends because this
            # machine is slow.
            mock.patch.object(writer_module, "DELETED_ROWS", 3),
            mock.patch.object(
                removal_module, "time", mock.Mock(monotonic=lambda: 0.0, thread_time=lambda: 0.0)
            ),
            mock.patch.object(watch_module, "PAGE_ENTRIES", 3),
            world.loop.running(),
        ):
            try:
                yield world
            finally:
                if world.life:
                    world.crash()
    finally:
        random.setstate(state)
        structlog.configure(**logging)
        shutil.rmtree(directory)
