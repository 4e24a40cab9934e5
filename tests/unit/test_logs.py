"""How many lines of one kind are logged."""

from server.logs import KIND_LINES, KIND_SECONDS, MAX_KINDS, RepeatLimit


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
