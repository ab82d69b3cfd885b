"""What the time of a test run went to: the parts of the suite, and the files that took longest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import pytest

#: A run whose tests took less than this, in seconds, needs no such list.
WORTH_TELLING_S = 120.0
FILES = 15


def seconds_by_file(reports: Iterable[object]) -> dict[str, float]:
    """Return how long the tests of each file took, with their fixtures, in seconds."""
    spent_s: defaultdict[str, float] = defaultdict(float)
    for report in reports:
        if isinstance(report, pytest.TestReport):
            spent_s[report.nodeid.partition("::")[0]] += report.duration
    return dict(spent_s)


def lines_of(spent_s: Mapping[str, float]) -> Iterator[str]:
    """Yield what to print; nothing where there was little to spend."""
    if sum(spent_s.values()) < WORTH_TELLING_S:
        return
    parts: defaultdict[str, float] = defaultdict(float)
    for path, seconds in spent_s.items():
        parts["/".join(path.split("/")[:-1][:3])] += seconds
    yield "seconds of tests: " + ", ".join(f"{part} {seconds:.0f}" for part, seconds in _most(parts))
    for path, seconds in _most(spent_s)[:FILES]:
        yield f"{seconds:6.0f} s {path}"


def _most(spent_s: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(spent_s.items(), key=lambda pair: -pair[1])
