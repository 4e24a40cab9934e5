"""Load over HTTP/1.1 by wrk."""

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from tests.campaigns.load.subjects import cpu_seconds

CONNECTIONS: Final = 32
MARK: Final = "bench: "
SCRIPT: Final = """\
local built = {}
local last = 0

function init()
  wrk.headers["Content-Type"] = %(type)s
%(headers)s  for path in io.lines(%(paths)s) do
    built[#built + 1] = wrk.format(%(method)s, path, wrk.headers, %(body)s)
  end
end

function request()
  last = last %% #built + 1
  return built[last]
end

function done(summary, latency)
  local errors = summary.errors
  local lost = errors.connect + errors.read + errors.write + errors.timeout
  local form = '%(mark)s{"done":%%d,"seconds":%%f,"refused":%%d,"lost":%%d,"p50_ms":%%f,"p99_ms":%%f}\\n'
  local p50, p99 = latency:percentile(50) / 1000, latency:percentile(99) / 1000
  io.write(form:format(summary.requests, summary.duration / 1e6, errors.status, lost, p50, p99))
end
"""


@dataclass
class Answers:
    """What came of a load: `done` answers, of which `refused` were none of success, and `lost` requests
    without one.
    """

    done: int
    seconds: float
    refused: int
    lost: int
    p50_ms: float
    p99_ms: float
    cpu_us: float = 0
    """CPU time of the serving processes for each answer."""

    @property
    def answered(self) -> float:
        """The share of the requests that had an answer of success."""
        return (self.done - self.refused) / max(1, self.done + self.lost)

    @property
    def rate(self) -> float:
        """Successes per second."""
        return (self.done - self.refused) / self.seconds


def parse(text: str) -> Answers:
    """Reads what our script has wrk print. Raises ValueError where it is not there."""
    line = next((line for line in text.splitlines() if line.startswith(MARK)), None)
    if line is None:
        raise ValueError(f"wrk did not end as it should: {text}")
    return Answers(**json.loads(line.removeprefix(MARK)))


def script(
    directory: Path, method: str, paths: Sequence[str], body: str | None, headers: Mapping[str, str]
) -> Path:
    """Writes the script of a load, which asks for the paths in turns."""
    (directory / "paths").write_text("\n".join(paths))
    values = {"paths": _lua(str(directory / "paths")), "method": _lua(method), "mark": MARK}
    values |= {"body": _lua(body), "type": _lua("application/json" if body else None)}
    values["headers"] = "".join(
        f"  wrk.headers[ {_lua(name)} ] = {_lua(value)}\n" for name, value in headers.items()
    )
    (directory / "load.lua").write_text(SCRIPT % values)
    return directory / "load.lua"


def drive(
    process: psutil.Process,
    address: str,
    method: str,
    paths: Sequence[str],
    body: str | None,
    seconds: int,
    *,
    timeout: int = 10,
    headers: Mapping[str, str] | None = None,
) -> Answers:
    """Loads an address for a while, and counts the CPU time of the process that serves it and of its
    children.
    """
    with tempfile.TemporaryDirectory() as directory:
        lua = script(Path(directory), method, paths, body, headers or {})
        options = f"-t1 -c{CONNECTIONS} -d{seconds}s --timeout {timeout}s".split()
        before = cpu_seconds(process)
        told = subprocess.run(
            ["wrk", *options, "-s", str(lua), f"http://{address}"], capture_output=True, text=True, check=True
        )
        spent = cpu_seconds(process) - before
    answers = parse(told.stdout)
    answers.cpu_us = spent / max(1, answers.done) * 1e6
    return answers


def _lua(text: str | None) -> str:
    return "nil" if text is None else f"[==[{text}]==]"
