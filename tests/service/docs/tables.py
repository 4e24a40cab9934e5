"""Tables of the docs, made from the code.

`python -m tests.service.docs.tables` writes them; a test fails while they differ.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from eliza.sessions.errors import TABLE
from rest_facade.routes.app import create_app
from rest_facade.upstream.backend import Backend, dial
from server.environment import bounds
from server.settings import Settings
from tests.service.docs.pages import DOCS


def settings() -> str:
    """Every setting, from server/settings.py and its parts, of which those that fewest need come last."""
    rows = ["| variable | default | bounds | meaning |", "| --- | --- | --- | --- |"]
    places = {name: place for place, part in enumerate(Settings.__bases__) for name in part.model_fields}
    for name, field in sorted(Settings.model_fields.items(), key=lambda item: places.get(item[0], -1)):
        default = str(field.default).lower() if field.annotation is bool else field.default
        shown = "" if default is None else f"`{default}`"
        rows.append(f"| `{name.upper()}` | {shown} | {bounds(name)} | {field.description} |")
    return "\n".join(rows)


def errors() -> str:
    """Every error, from errors.proto."""
    rows = ["| code | class | HTTP | gRPC | details |", "| --- | --- | --- | --- | --- |"]
    for row in TABLE.values():
        details = ", ".join(f"`{detail}`" for detail in row.details)
        rows.append(
            f"| `{row.reason}` | {row.error_class} | {row.http_status} | {row.grpc_status.name} | {details} |"
        )
    return "\n".join(rows)


def endpoints() -> str:
    """Every route, from the facade."""
    app = create_app(Backend(partial(dial, "127.0.0.1:1"), 1, 1))
    rows = ["| method | path | does |", "| --- | --- | --- |"]
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:\w+:)?(\w+)>", lambda found: "{" + _camel_case(found[1]) + "}", rule.rule)
        paragraph = (app.view_functions[rule.endpoint].__doc__ or "").split("\n\n")[0]
        does = " ".join(paragraph.split())
        methods = sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
        rows += [f"| {method} | `{path}` | {does} |" for method in methods]
    return "\n".join(rows)


TABLES: Final[dict[Path, tuple[str, Callable[[], str]]]] = {
    DOCS / "settings.md": ("settings", settings),
    DOCS / "errors.md": ("errors", errors),
    DOCS / "api.md": ("endpoints", endpoints),
}
"""The pages that have one: its name there, and what makes it."""


def written(page: Path) -> str:
    """The page's text with its table as the code has it."""
    name, table = TABLES[page]
    pattern = rf"(<!-- table: {name} -->\n).*?(<!-- end -->)"
    text, count = re.subn(
        pattern, lambda found: f"{found[1]}\n{table()}\n\n{found[2]}", page.read_text(), flags=re.DOTALL
    )
    assert count == 1, name
    return text


def _camel_case(name: str) -> str:
    return re.sub("_(.)", lambda found: found[1].upper(), name)


if __name__ == "__main__":
    for one in TABLES:
        one.write_text(written(one))
