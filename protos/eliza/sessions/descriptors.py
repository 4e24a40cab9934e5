"""How many connections a part of the service may have: gRPC and REST share a process and its descriptors."""

import resource
from typing import Final

MAX_CONNECTIONS: Final = 10_000


def quarter_of_descriptors() -> int:
    """Returns a quarter of the process's descriptors, at most MAX_CONNECTIONS.

    gRPC and REST may have this many connections each, so that half of the descriptors are left.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, soft // 4)
