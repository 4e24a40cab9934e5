"""How many lines of one kind are logged."""

import logging
import sys
from collections.abc import Callable, Iterator

import pytest
import structlog

from server.logs import KIND_LINES, KIND_SECONDS, MAX_KINDS, MAX_LINE, RepeatLimit, configure


class Time:
    """Seconds that a test moves."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_lines_of_one_kind_beyond_the_limit_are_left_out() -> None:
    limit = RepeatLimit(Time())
    taken = [limit.take("a") for _ in range(KIND_LINES + 3)]
    assert taken == [0] * KIND_LINES + [None] * 3


def test_each_kind_has_a_limit_of_its_own() -> None:
    limit = RepeatLimit(Time())
    for _ in range(KIND_LINES + 1):
        limit.take("a")
    assert limit.take("b") == 0


def test_the_next_line_says_how_many_were_left_out_before_it() -> None:
    time = Time()
    limit = RepeatLimit(time)
    for _ in range(KIND_LINES + 3):
        limit.take("a")
    time.now_s = KIND_SECONDS
    assert [limit.take("a"), limit.take("a"), limit.take("b")] == [3, 0, 0]


def test_kinds_without_end_are_counted_in_bounded_memory() -> None:
    limit = RepeatLimit(Time())
    for kind in range(3 * MAX_KINDS):
        limit.take(kind)
    assert len(limit._counts) <= MAX_KINDS


@pytest.fixture
def logging_to() -> Iterator[Callable[[str], None]]:
    """Sets up logs in a style; afterwards they are as they were."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, structlog.get_config(), sys.excepthook
    yield lambda style: configure("info", style)
    root.handlers[:], root.level = before[:2]
    structlog.configure(**before[2])
    sys.excepthook = before[3]
    logging.captureWarnings(capture=False)


@pytest.mark.parametrize("style", ["console", "json"])
def test_what_a_library_repeats_of_a_client_is_one_line_of_bounded_length(
    logging_to: Callable[[str], None], capsys: pytest.CaptureFixture[str], style: str
) -> None:
    logging_to(style)
    logging.getLogger("socketio").warning(
        "%s is not connected to namespace %s", None, "/a\n2026 [error] forged \x1b[31m" + "n" * 100_000
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert len(line) < 2 * MAX_LINE
    assert "\x1b[31m" not in line.partition("forged")[2][:6]


def test_tracebacks_of_one_kind_are_bounded_and_every_error_keeps_its_line(
    logging_to: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    logging_to("console")
    count = 3 * KIND_LINES
    for number in range(count):
        try:
            raise RuntimeError("again")
        except RuntimeError as error:
            structlog.get_logger().error("unforeseen error", error_id=f"id-{number}.", exc_info=error)
    said = capsys.readouterr().err
    assert [number for number in range(count) if f"id-{number}." not in said] == []
    assert said.count("Traceback") == KIND_LINES
    assert said.count("RuntimeError: again") == count
