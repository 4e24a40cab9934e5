"""The priority of gRPC's own threads."""

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

GIVES_WAY: Final = 10
"""By how much they are nicer than the rest of the process."""


def give_way() -> None:
    """Has gRPC's threads give way to Python's where both want a processor. Those that gRPC starts later are as nice as those it has.

    They read calls, and end those for which there is no room. Where more calls come than can be answered, that would take the time in which
    others are answered; so it is the new calls that wait, in TCP. Does nothing where priorities are not a thread's own, but a process's.
    """
    if sys.platform != "linux":
        return
    pythons = {thread.native_id for thread in threading.enumerate()}
    niceness = os.getpriority(os.PRIO_PROCESS, os.getpid()) + GIVES_WAY
    for number in (int(task.name) for task in Path("/proc/self/task").iterdir()):
        # A thread may have ended meanwhile, and a sandbox may not allow it: then everything is as it would be without.
        if number not in pythons:
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, number, niceness)
