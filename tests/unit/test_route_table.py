"""The one look of the route table comes to the same as werkzeug's search."""

from functools import partial
from typing import Any

import flask
import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, Rule

from rest_facade.console.blueprint import Console
from rest_facade.routes.app import create_app
from rest_facade.routes.route_table import RouteTable
from rest_facade.upstream.backend import Backend, dial

METHODS = ("GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS", "get", "")
WORDS = (
    *("api", "messaging", "sessions", "health", "messages", "events", "test", "clock", "openapi.json"),
    *(
        "console",
        "parts",
        "data",
        "static",
        "agents",
        "docs",
        "log",
        "deliveries",
        "x",
        "<x>",
        "é\n",
        "",
        "%2F",
    ),
)


def make_app() -> flask.Flask:
    backend = Backend(partial(dial, "127.0.0.1:1"), 1, 1)
    app = create_app(backend)
    Console(backend, is_on=True).add_routes(app)
    return app


APP = make_app()
TABLE = RouteTable(APP.url_map)


def search(routes: Map, method: str, path: str) -> Any:
    """What werkzeug finds: a rule with its values, or an error."""
    try:
        return routes.bind("", default_method=method, path_info=path).match(return_rule=True)
    except HTTPException as error:
        return type(error)


def filled(rule: Rule, value: str) -> str:
    """A path that a rule may have."""
    return "/".join(value if "<" in segment else segment for segment in rule.rule.split("/"))


@given(
    method=st.sampled_from(METHODS),
    path=st.one_of(
        st.lists(st.sampled_from(WORDS), max_size=7).map(lambda words: "/" + "/".join(words)),
        st.builds(filled, st.sampled_from(list(APP.url_map.iter_rules())), st.sampled_from(WORDS)),
        st.builds(filled, st.sampled_from(list(APP.url_map.iter_rules())), st.text()),
    ),
)
def test_what_is_found_is_what_werkzeug_finds(method: str, path: str) -> None:
    found = TABLE.find(method, path)
    assert found is None or found == search(APP.url_map, method, path)


@pytest.mark.parametrize("rule", list(APP.url_map.iter_rules()), ids=str)
def test_all_rules_but_those_of_whole_paths_are_found_in_one_look(rule: Rule) -> None:
    for method in rule.methods or ():
        found = TABLE.find(method, filled(rule, "a-value"))
        assert (found is None) == ("<path:" in rule.rule)


def test_a_rule_that_werkzeug_would_prefer_is_found_first() -> None:
    routes = Map([Rule("/a/<x>/c", endpoint="x"), Rule("/a/b/<y>", endpoint="y")])
    assert RouteTable(routes).find("GET", "/a/b/c") is None
    rules = [Rule(f"/a/{rest}", endpoint=rest, methods=["GET"]) for rest in ("<x>/c", "b/<y>")]
    routes = Map(rules)
    assert (
        RouteTable(routes).find("GET", "/a/b/c") == search(routes, "GET", "/a/b/c") == (rules[1], {"y": "c"})
    )


@pytest.mark.parametrize("rule", ["/<int:x>", "/<path:x>", "/a-<x>", "/<string(length=2):x>", "/<x>/<y>"])
def test_a_value_that_is_no_whole_segment_as_it_is_is_left_to_werkzeug(rule: str) -> None:
    routes = Map([Rule(rule, endpoint="x", methods=["GET"])])
    table = RouteTable(routes)
    assert all(table.find("GET", path) is None for path in ("/1", "/a-1", "/ab", "/a/b"))
