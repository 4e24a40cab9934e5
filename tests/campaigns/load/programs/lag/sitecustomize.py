"""Python runs this at its start where it is on PYTHONPATH: each event loop then notes how late its timers
are.

At the end of the process the notes go to a file beside this one: an instant (monotonic) and a lag in seconds
a line.
"""

import atexit
import os
import time
from pathlib import Path

import uvloop

EVERY_SECONDS = 0.005

notes: list[tuple[float, float]] = []
run_until_complete = uvloop.Loop.run_until_complete
sampled: set[uvloop.Loop] = set()


def run_sampled(loop: uvloop.Loop, future: object) -> object:
    def note(due: float) -> None:
        now = time.monotonic()
        notes.append((due, now - due))
        loop.call_later(EVERY_SECONDS, note, now + EVERY_SECONDS)

    if loop not in sampled:
        sampled.add(loop)
        loop.call_soon(note, time.monotonic())
    return run_until_complete(loop, future)


def write() -> None:
    if notes:
        lines = "\n".join(f"{due} {lag}" for due, lag in notes)
        Path(__file__).with_name(f"{os.getpid()}.lag").write_text(lines)


uvloop.Loop.run_until_complete = run_sampled
atexit.register(write)
