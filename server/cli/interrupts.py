"""Ctrl-C while the answers of a call are read."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

C = TypeVar("C", bound="Call")

_RAISE: Final = signal.default_int_handler


class Call(Protocol):
    """A call that is under way."""

    def cancel(self) -> Any:
        """Ends it, whatever is read of it."""


class Reading:
    """Has Ctrl-C cancel a call while its answers are read. A context manager, for the main thread.

    Its end cancels the call, too. After Ctrl-C it then raises KeyboardInterrupt, and not before: raised in
    the midst of gRPC's code that leaves operations half begun, and the command hangs or crashes at its end.
    """

    def __init__(self) -> None:
        self._is_over = False
        self._call: Call | None = None

    def __enter__(self) -> Self:
        # Who ignores Ctrl-C, as a program in the background may, goes on to do so.
        self._is_ours = signal.getsignal(signal.SIGINT) is _RAISE
        if self._is_ours:
            signal.signal(signal.SIGINT, self._cancel)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._call:
            self._call.cancel()
        if self._is_ours:
            signal.signal(signal.SIGINT, _RAISE)
        if self._is_over:
            # The error is that of the call that was cancelled.
            raise KeyboardInterrupt from None

    def begin(self, make: Callable[[], C]) -> C:
        """Begins the call."""
        call = make()
        self._call = call
        if self._is_over:
            call.cancel()
        return call

    def _cancel(self, _number: int, _frame: FrameType | None) -> None:
        self._is_over = True
        if self._call:
            self._call.cancel()
