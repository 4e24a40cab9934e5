"""The parts and settings that all connections of a facade share."""

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final

from rest_facade.front_door.admission import Admission
from rest_facade.front_door.connections import Connections
from rest_facade.front_door.greenlets import Greenlets
from rest_facade.front_door.observer import NOBODY, Observer
from rest_facade.front_door.origins import ALWAYS, Origins
from rest_facade.shapes.asgi import App

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_ALWAYS: Final = b"".join(b"%b: %b\r\n" % line for line in ALWAYS)


@dataclass(slots=True)
class Door:
    """Requests below `asgi_path` go to `asgi`, others to `app`. Those for `exempt_paths` do not queue."""

    app: "WSGIApplication"
    asgi: App
    asgi_path: str
    exempt_paths: frozenset[str]
    origins: Origins
    admission: Admission
    connections: Connections
    max_body_bytes: int
    keep_alive_seconds: float
    observer: Observer = NOBODY
    greenlets: Greenlets = field(default_factory=Greenlets)
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    """Those in which requests are worked on."""
    is_stopping: bool = False
    _lines: bytes = b""
    _lines_s: int = 0

    def lines(self) -> bytes:
        """The lines that the head of every response has."""
        now_s = int(time.time())
        if now_s != self._lines_s:
            self._lines_s = now_s
            self._lines = b"date: %b\r\n" % formatdate(now_s, usegmt=True).encode() + _ALWAYS
        return self._lines

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Makes a task, and keeps it until it is done."""
        return self.keep(asyncio.get_running_loop().create_task(work))

    def keep(self, task: asyncio.Task[Any]) -> asyncio.Task[Any]:
        """Keeps a task, in which a request is worked on, until it is done."""
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task
