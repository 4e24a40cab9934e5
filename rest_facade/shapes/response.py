"""The response of a view: status, headers and body."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

WITHOUT_BODY: Final = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
"""The statuses of answers that have no body, and say no length."""

_STATUSES: Final = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


class CutShortError(Exception):
    """A streamed body ended early and has said why. Its client must not take it for complete."""


class Response:
    """A small WSGI app that Flask passes on unchanged, without cookies and conditions.

    A body that is an iterator is streamed; `on_close` is called however that ends.
    """

    __slots__ = ("body", "headers", "on_close", "status")

    def __init__(
        self,
        body: bytes | Iterator[bytes],
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.body = body
        self.status = status
        self.headers = dict(headers or ())
        self.on_close = on_close

    def __call__(self, _environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answers by PEP 3333."""
        headers = list(self.headers.items())
        if not isinstance(self.body, bytes):
            start_response(_STATUSES[self.status], headers)
            return _Stream(self.body, self.on_close)
        if self.status not in WITHOUT_BODY:
            headers.append(("Content-Length", str(len(self.body))))
        start_response(_STATUSES[self.status], headers)
        return [self.body]


class _Stream:
    """A streamed body that calls a function at its end."""

    def __init__(self, parts: Iterator[bytes], on_close: Callable[[], None] | None) -> None:
        self._parts = parts
        self._on_close = on_close

    def __iter__(self) -> Iterator[bytes]:
        return self._parts

    def close(self) -> None:
        """Ends the body, and a generator in its `finally` too."""
        try:
            if close := getattr(self._parts, "close", None):
                close()
        finally:
            if self._on_close:
                self._on_close()
