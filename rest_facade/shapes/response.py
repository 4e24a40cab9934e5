"""What a view answers: status, headers and body as they are sent."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_STATUSES: Final = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


class CutShortError(Exception):
    """Raised by a streamed body that cannot go on, and has said why: its client must not take
    it for whole.
    """


class Response:
    """A WSGI app of its own, so that Flask hands it on as it is. It has nothing else of `flask.Response`: no
    cookies, no conditions.

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
        """Answers as PEP 3333 has it."""
        headers = list(self.headers.items())
        if not isinstance(self.body, bytes):
            start_response(_STATUSES[self.status], headers)
            return _Stream(self.body, self.on_close)
        if self.status != HTTPStatus.NO_CONTENT:
            headers.append(("Content-Length", str(len(self.body))))
        start_response(_STATUSES[self.status], headers)
        return [self.body]


class _Stream:
    """A body that is streamed, with what is to be done at its end."""

    def __init__(self, parts: Iterator[bytes], on_close: Callable[[], None] | None) -> None:
        self._parts = parts
        self._on_close = on_close

    def __iter__(self) -> Iterator[bytes]:
        return self._parts

    def close(self) -> None:
        """Ends it: a generator in its `finally`, too."""
        try:
            if close := getattr(self._parts, "close", None):
                close()
        finally:
            if self._on_close:
                self._on_close()
