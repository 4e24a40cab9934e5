"""Writes src/eliza_sessions_client/error_classes.py: the classes of errors, from the options in errors.proto.

`--check` writes nothing, and fails where the committed file differs.
"""

import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT.parents[1] / "protos")]

from eliza_sessions_client._api import errors_pb2  # noqa: E402
from eliza_sessions_client.errors import attribute, reason_name  # noqa: E402

TARGET = ROOT / "src" / "eliza_sessions_client" / "error_classes.py"
PROTO = ROOT.parents[1] / "protos" / "eliza" / "sessions" / "v1" / "errors.proto"
TYPES = {errors_pb2.DETAIL_KIND_NUMBER: "float", errors_pb2.DETAIL_KIND_FIELD_LIST: "tuple[str, ...]"}

HEAD = '''"""One class for each reason of the API's table of errors.

Made from errors.proto by generate_errors.py: change nothing here.
"""

from collections.abc import Mapping
from typing import Final

import grpc

from eliza_sessions_client._api import errors_pb2
from eliza_sessions_client.errors import SessionsError, reason_name
'''

TAIL = '''

CLASSES: Final[Mapping[str, type[SessionsError]]] = {
    one.code: one for one in SessionsError.__subclasses__() if one.__module__ == __name__
}
"""The classes by their codes."""

_NUMBERS = {code.value[0]: code for code in grpc.StatusCode}
STATUSES: Final[dict[str, grpc.StatusCode]] = {}
"""The gRPC status of each code."""

for _value in errors_pb2.ErrorReason.DESCRIPTOR.values:
    if _value.number and reason_name(_value.number) in CLASSES:
        _row = _value.GetOptions().Extensions[errors_pb2.error]
        _class = CLASSES[reason_name(_value.number)]
        _class.kinds = {detail.name: detail.kind for detail in _row.details}
        STATUSES[_class.code] = _NUMBERS[_row.grpc_status]
'''


def comments() -> dict[str, str]:
    """What errors.proto says about each reason, in one line."""
    found = re.findall(r"((?:^  // .*\n)+)^  ERROR_REASON_(\w+) =", PROTO.read_text(), re.MULTILINE)
    return {code: " ".join(line[5:] for line in text.splitlines()) for text, code in found}


def generated() -> str:
    """The file as it should be."""
    text, said = HEAD, comments()
    for value in errors_pb2.ErrorReason.DESCRIPTOR.values:
        if not value.number:
            continue
        code, row = reason_name(value.number), value.GetOptions().Extensions[errors_pb2.error]
        text += f'\n\nclass {row.error_class}(SessionsError):\n    """{wrapped(said[code])}"""\n\n'
        text += f'    code = "{code}"\n'
        for detail in row.details:
            text += f"    {attribute(detail.name)}: {TYPES.get(detail.kind, 'str')}\n"
    return text + TAIL


def wrapped(text: str) -> str:
    """A docstring: the first sentence, and the rest below it."""
    first, _, rest = text.partition(". ")
    whole = first.removesuffix(".") + "." + (f"\n\n{rest}" if rest else "")
    lines = [
        line
        for part in whole.split("\n")
        for line in textwrap.wrap(part, 100, break_on_hyphens=False) or [""]
    ]
    return lines[0] if len(lines) == 1 else "\n    ".join([*lines, ""]).replace("\n    \n", "\n\n")


def main() -> int:
    """Writes, or with --check compares; the exit status is 1 where something differs."""
    if "--check" in sys.argv:
        return int(TARGET.read_text() != generated())
    TARGET.write_text(generated())
    return 0


if __name__ == "__main__":
    sys.exit(main())
