"""Load of unary gRPC calls by h2load."""

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from tests.campaigns.load.subjects import cpu_seconds

STREAMS: Final = 8
"""How many calls each of h2load's processes has in flight, over one connection."""
PREFIX_BYTES: Final = 5
"""Before each message of gRPC."""


@dataclass
class Calls:
    """What came of a load: `done` calls have an answer with HTTP's 200, whatever gRPC's status is; `failed`
    have none.
    """

    done: int
    failed: int
    data_bytes: int
    """Of the answers; a refused call has none."""
    seconds: float
    cpu_us: float = 0
    """CPU time of the serving processes for each call."""
    answered: float = 1
    """The share of the calls that were answered with a message: the others were refused.

    Good to 3 %, for sizes differ.
    """

    def add(self, more: "Calls") -> None:
        self.done += more.done
        self.failed += more.failed
        self.data_bytes += more.data_bytes
        self.seconds = max(self.seconds, more.seconds)


def parse(text: str) -> Calls:
    """Reads what h2load prints. Raises ValueError where it is something else."""
    counts = re.search(r"requests: .* (\d+) done, (\d+) succeeded", text)
    data, took = re.search(r"\((\d+)\) data", text), re.search(r"finished in ([\d.]+)(m?s),", text)
    if not (counts and data and took):
        raise ValueError(f"h2load did not end as it should: {text}")
    done, succeeded = int(counts[1]), int(counts[2])
    seconds = float(took[1]) / (1000 if took[2] == "ms" else 1)
    return Calls(succeeded, done - succeeded, int(data[1]), seconds)


def drive(
    process: psutil.Process,
    address: str,
    method: str,
    messages: Sequence[bytes],
    seconds: float,
    answer_bytes: int,
    headers: Mapping[str, str] | None = None,
) -> Calls:
    """Calls a method with each of the messages at the same time, over a connection each, for a while.

    The answers have about so many bytes.
    """
    with tempfile.TemporaryDirectory() as directory:
        commands = [
            _command(Path(directory) / str(n), address, method, message, seconds, headers or {})
            for n, message in enumerate(messages)
        ]
        before = cpu_seconds(process)
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
        found = [parse(one.communicate()[0]) for one in running]
    calls = found[0]
    for more in found[1:]:
        calls.add(more)
    calls.answered = calls.data_bytes / max(1, calls.done) / (answer_bytes + PREFIX_BYTES)
    calls.cpu_us = (cpu_seconds(process) - before) / max(1, calls.done) * 1e6
    return calls


def _command(
    file: Path, address: str, method: str, message: bytes, seconds: float, headers: Mapping[str, str]
) -> list[str]:
    file.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    options = ["-D", f"{round(seconds * 1000)}ms", "-c", "1", "-m", str(STREAMS), "-d", str(file)]
    return [
        "h2load",
        *options,
        *(part for name, value in headers.items() for part in ("-H", f"{name}: {value}")),
        "-H",
        "te: trailers",
        "-H",
        "content-type: application/grpc",
        f"http://{address}{method}",
    ]
