"""A Flask app that says hello, for gunicorn."""

import flask

app = flask.Flask(__name__)


@app.get("/")
def hello() -> dict[str, str]:
    return {"hello": "world"}
