"""The environs of WSGI (PEP 3333)."""

import io
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from eliza.sessions.call_metadata import REQUEST_ID_KEY
from rest_facade.shapes.credentials import METADATA

if TYPE_CHECKING:
    from rest_facade.front_door.exchange import Exchange

_OF_BODY: Final = {"HTTP_CONTENT_TYPE": "CONTENT_TYPE", "HTTP_CONTENT_LENGTH": "CONTENT_LENGTH"}
"""The two headers that an environ has under names without HTTP_."""


def make_environ(exchange: "Exchange") -> dict[str, Any]:
    """Returns the environ of a request whose body is complete."""
    environ: dict[str, Any] = {
        **exchange.connection.environ,
        "REQUEST_METHOD": exchange.method,
        "PATH_INFO": exchange.path,
        "QUERY_STRING": exchange.query.decode("latin-1"),
        "SERVER_PROTOCOL": "HTTP/1.0" if exchange.is_old else "HTTP/1.1",
        "wsgi.input": io.BytesIO(exchange.body),
    }
    for name, value in exchange.headers:
        key, text = _key(name), value.decode("latin-1")
        environ[key] = f"{environ[key]},{text}" if key in environ else text
    environ[METADATA] = (*exchange.metadata, (REQUEST_ID_KEY, exchange.request_id))
    environ["CONTENT_LENGTH"] = str(len(exchange.body))
    return environ


def connection_environ(
    client: tuple[Any, ...], server: tuple[Any, ...], *, is_tls: bool = False
) -> dict[str, Any]:
    """Returns the part of the environ that all requests of a connection share."""
    return {
        "SCRIPT_NAME": "",
        "REMOTE_ADDR": str(client[0]),
        "REMOTE_PORT": str(client[1]),
        "SERVER_NAME": str(server[0]),
        "SERVER_PORT": str(server[1]),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https" if is_tls else "http",
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }


@lru_cache(maxsize=256)
def _key(name: bytes) -> str:
    """Returns the name of a header in an environ."""
    key = "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
    return _OF_BODY.get(key, key)
