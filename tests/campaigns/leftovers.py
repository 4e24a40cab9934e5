"""`eliza-sessions` whose collector frees nothing: on SIGUSR1 it writes to the file in LEFTOVERS what it has
found in cycles.

A message "fail in the store" meets an error that nobody foresaw in the writer; "fail in the facade", one in
the view.
"""

import gc
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType, TracebackType
from typing import Any, Final

from google.protobuf.message import Message

from rest_facade.front_door.exchange import Exchange
from rest_facade.front_door.protocol import HttpProtocol
from rest_facade.shapes import responses
from server.cli import main
from server.cli.rest import select_inherited
from server.rpc import message_service

LARGE_BYTES: Final = 500
"""A text of so many bytes is one of a client's."""

_RUNNING: Final = (FrameType, TracebackType, GeneratorType, CoroutineType, AsyncGeneratorType)


def _found() -> Iterator[str]:
    """What a cycle has kept: what ran, connections, classes, and whatever of a request it holds."""
    for kept in gc.garbage:
        if isinstance(kept, type):
            yield f"class {kept.__qualname__}"
        if isinstance(kept, (HttpProtocol, Exchange)):
            yield type(kept).__name__
        if isinstance(kept, _RUNNING):
            yield _name(kept)
        for held in gc.get_referents(kept):
            if isinstance(held, Message) or (
                isinstance(held, (bytes, bytearray, str)) and len(held) >= LARGE_BYTES
            ):
                yield f"{type(held).__name__} held by {type(kept).__name__}"


def _name(kept: Any) -> str:
    code = getattr(getattr(kept, "tb_frame", kept), "f_code", None)
    code = (
        code
        or getattr(kept, "cr_code", None)
        or getattr(kept, "gi_code", None)
        or getattr(kept, "ag_code", None)
    )
    where = f"{Path(code.co_filename).name}:{code.co_qualname}" if code else repr(kept)
    return f"{type(kept).__name__} {where}"


def _tell(path: Path) -> None:
    gc.collect()
    found = sorted(set(_found()))
    gc.garbage.clear()
    gc.set_debug(0)
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    path.with_suffix(".part").write_text(json.dumps(found))
    path.with_suffix(".part").rename(path)


def _break(owner: Any, name: str, text: str) -> None:
    """Has a function fail where its arguments speak of a text."""
    original = getattr(owner, name)

    def broken(*arguments: Any, **named: Any) -> Any:
        if text in f"{arguments}{named}":
            raise RuntimeError(text)
        return original(*arguments, **named)

    setattr(owner, name, broken)


if __name__ == "__main__":
    _break(message_service, "send_message", "fail in the store")
    _break(responses, "sent_message", "fail in the facade")
    gc.set_debug(gc.DEBUG_SAVEALL)
    told = Path(os.environ.pop("LEFTOVERS"))
    signal.signal(signal.SIGUSR1, lambda *_: _tell(told))
    if sys.argv[1] == "rest":
        # With more in its environment than it needs, it would become the program itself, which tells nothing.
        for name in os.environ.keys() - select_inherited(os.environ).keys():
            del os.environ[name]
    main()
