"""Puts the stubs of `protos/` into the wheel, under the client's own name.

The server's wheel has them as `eliza.sessions.v1`. Two wheels must not own the same files, or the removal of
one would break the other. So here they are `eliza_sessions_client.v1`: the same files, but for the name in
their imports. protobuf takes the same descriptors from both.
"""

import re
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "eliza_sessions_client"
IMPORT = re.compile(rb"^from eliza\.sessions\.v1 import ", re.MULTILINE)


def renamed(source: bytes) -> bytes:
    """A file's source with its imports of `eliza.sessions.v1` led to the client's own copy."""
    return IMPORT.sub(f"from {PACKAGE}.v1 import ".encode(), source)


def sources(root: Path) -> dict[str, Path]:
    """The files that are renamed, by their place in the wheel.

    `root` is that of this project: in the repository, or in an unpacked sdist, which brings the protos.
    """
    protos = next(path for path in (root / "protos", root.parents[1] / "protos") if path.is_dir())
    stubs = sorted((protos / "eliza" / "sessions" / "v1").glob("*.py*"))
    found = {f"{PACKAGE}/v1/{path.name}": path for path in stubs}
    return {**found, f"{PACKAGE}/_api.py": root / "src" / PACKAGE / "_api.py"}


class StubsHook(BuildHookInterface):  # type: ignore[type-arg,misc]
    """See above."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the renamed files to a wheel. An editable installation needs none."""
        if version == "editable":
            return
        self._directory = tempfile.TemporaryDirectory()
        for number, (place, path) in enumerate(sources(Path(self.root)).items()):
            copy = Path(self._directory.name) / f"{number}-{path.name}"
            copy.write_bytes(renamed(path.read_bytes()))
            build_data["force_include"][str(copy)] = place

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Removes the copies."""
        if version != "editable":
            self._directory.cleanup()
