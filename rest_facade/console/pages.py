"""The console's pages. A new one is a row here and a template; its data come as parts."""

from typing import Final, NamedTuple


class Page(NamedTuple):
    """A page without data: where it is, its template, its title, and the entry of the navigation that it
    belongs to.
    """

    rule: str
    template: str
    title: str
    entry: str = ""


PAGES: Final = (
    Page("/console", "pages/overview.html", "Overview", "Overview"),
    Page("/console/sessions", "pages/sessions.html", "Sessions", "Sessions"),
    Page("/console/sessions/<session_id>", "pages/session.html", "Session", "Sessions"),
    Page("/console/agents", "pages/agents.html", "Agents", "Agents"),
    Page("/console/agents/<agent_id>", "pages/agent.html", "Agent", "Agents"),
    Page("/console/system", "pages/system.html", "System", "System"),
)

NAVIGATION: Final = (
    ("Overview", "console"),
    ("Sessions", "console/sessions"),
    ("Agents", "console/agents"),
    ("System", "console/system"),
    ("API docs", "docs"),
)
"""The entries of the navigation, with their addresses relative to the root."""
