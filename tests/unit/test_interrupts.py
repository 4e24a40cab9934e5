"""Ctrl-C while the command line reads the answers of a call."""

import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Self

import grpc
import pytest

from server.cli.interrupts import Reading
from server.cli.session_calls import follow


class Cancelled(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.CANCELLED

    def details(self) -> str:
        return "Locally cancelled by application!"

    def trailing_metadata(self) -> None:
        return None


class Call:
    """A call in the midst of whose code Ctrl-C is pressed. `is_torn`: that was left half done."""

    def __init__(self) -> None:
        self.is_torn = True
        self.cancelled = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        signal.raise_signal(signal.SIGINT)
        self.is_torn = False
        if self.cancelled:
            raise Cancelled
        return SimpleNamespace(entry=SimpleNamespace(sequence=1))

    def cancel(self) -> bool:
        self.cancelled += 1
        return True


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """Ctrl-C does afterwards what it did before."""
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_ends_a_tail_behind_what_grpc_is_at() -> None:
    call = Call()
    stubs: Any = SimpleNamespace(sessions=SimpleNamespace(WatchSession=lambda *_, **__: call))
    with pytest.raises(KeyboardInterrupt):
        list(follow(stubs, "a session", 0))
    assert (call.is_torn, call.cancelled > 0) == (False, True)


def test_ctrl_c_while_a_call_begins_cancels_it() -> None:
    call = Call()

    def begin() -> Call:
        signal.raise_signal(signal.SIGINT)
        return call

    with pytest.raises(KeyboardInterrupt), Reading() as reading:
        assert reading.begin(begin).cancelled == 1


def test_a_call_is_cancelled_when_no_more_is_read() -> None:
    call = Call()
    with Reading() as reading:
        reading.begin(lambda: call)
    assert call.cancelled == 1


def test_who_ignores_ctrl_c_reads_on() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Reading() as reading:
            next(reading.begin(Call))
    finally:
        signal.signal(signal.SIGINT, before)
