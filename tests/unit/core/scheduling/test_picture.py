"""When the jobs of a line came, as far as that is known, and how long overdue work goes on."""

from __future__ import annotations

import pytest

from core.scheduling.lines import Line
from core.scheduling.picture import WaitingLine, left_s


@pytest.mark.parametrize(
    ("came_s", "expected"),
    [
        ((), [10.0, 10.0, 10.0, 10.0, 10.0]),
        ((50.0,), [10.0, 20.0, 30.0, 40.0, 50.0]),
        ((14.0, 50.0), [10.0, 14.0, 26.0, 38.0, 50.0]),
        ((11.0, 12.0, 13.0, 14.0), [10.0, 11.0, 12.0, 13.0, 14.0]),
    ],
)
def test_jobs_of_which_nothing_is_known_came_evenly_between_others(
    came_s: tuple[float, ...], expected: list[float]
) -> None:
    line = WaitingLine(line=Line(id=1, waiting=5, since_s=10.0), came_s=came_s)

    assert [line.came(index) for index in range(5)] == expected


@pytest.mark.parametrize(("passed_s", "left"), [(0.0, 8.0), (5.0, 3.0), (7.0, 2.0), (60.0, 2.0)])
def test_what_is_overdue_is_not_as_good_as_done(passed_s: float, left: float) -> None:
    assert left_s(8.0, passed_s) == left
