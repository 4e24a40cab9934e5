"""The README's tables, made from the code. `python -m tests.docs.tables` writes them into it; a test fails while they differ."""

import re
from pathlib import Path

from eliza.sessions.errors import TABLE
from rest_facade.routes.app import create_app
from rest_facade.upstream.backend import Backend
from server.settings import Settings, bounds

README = Path(__file__).parents[2] / "README.md"


def settings() -> str:
    """Every setting, from server/settings.py."""
    rows = ["| variable | default | bounds | meaning |", "| --- | --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{str(field.default).lower() if field.annotation is bool else field.default}`"
        rows.append(f"| `{name.upper()}` | {default} | {bounds(name)} | {field.description} |")
    return "\n".join(rows)


def errors() -> str:
    """Every error, from errors.proto."""
    rows = ["| code | class | HTTP | gRPC | details |", "| --- | --- | --- | --- | --- |"]
    for row in TABLE.values():
        details = ", ".join(f"`{detail}`" for detail in row.details)
        rows.append(f"| `{row.reason}` | {row.error_class} | {row.http_status} | {row.grpc_status.name} | {details} |")
    return "\n".join(rows)


def endpoints() -> str:
    """Every route, from the facade."""
    app = create_app(Backend("127.0.0.1:1", 1, 1))
    rows = ["| method | path | does |", "| --- | --- | --- |"]
    for rule in app.url_map.iter_rules():
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            does = (app.view_functions[rule.endpoint].__doc__ or "").split("\n")[0]
            path = re.sub(r"<(?:\w+:)?(\w+)>", lambda found: "{" + re.sub("_(.)", lambda part: part[1].upper(), found[1]) + "}", rule.rule)
            rows.append(f"| {method} | `{path}` | {does} |")
    return "\n".join(rows)


def written(readme: str) -> str:
    """The README's text with every table as the code has it."""
    for name, table in (("settings", settings), ("errors", errors), ("endpoints", endpoints)):
        pattern = rf"(<!-- table: {name} -->\n).*?(<!-- end -->)"
        readme, count = re.subn(pattern, lambda found, table=table: f"{found[1]}\n{table()}\n\n{found[2]}", readme, flags=re.DOTALL)
        assert count == 1, name
    return readme


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
