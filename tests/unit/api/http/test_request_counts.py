"""Requests counted in memory, as each process does without a Redis: as many as may be, and when there are more."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from api.http.request_counts import MOST_DRAWN, SHARE, RequestCounts
from tests.services import make_settings


@pytest.fixture
def counts(tmp_path: Path) -> RequestCounts:
    # In memory windows begin with the minute, and none may begin in the middle of a test.
    while time.time() % 60 > 57:
        time.sleep(0.1)
    return RequestCounts(make_settings(tmp_path, broker_url="amqp://127.0.0.1:1//"))


def test_as_many_are_let_in_as_may_be(counts: RequestCounts) -> None:
    standings = [counts.take("acme", 5) for _ in range(8)]

    assert [each.is_allowed for each in standings] == [True] * 5 + [False] * 3
    assert [each.left for each in standings] == [4, 3, 2, 1, 0, 0, 0, 0]
    assert 0 < standings[-1].more_in_s <= 60
    assert counts.take("globex", 5).is_allowed
    assert (counts.standing("acme", 5).left, counts.standing("globex", 5).left) == (0, 4)


@pytest.mark.parametrize("limit", [1, SHARE - 1, SHARE * 3, SHARE * MOST_DRAWN * 2])
def test_drawing_several_at_once_lets_in_neither_more_nor_fewer(counts: RequestCounts, limit: int) -> None:
    with ThreadPoolExecutor(8) as pool:
        let_in = sum(pool.map(lambda _: counts.take("acme", limit).is_allowed, range(limit + 50)))

    assert let_in == limit


def test_what_is_told_counts_what_was_drawn_and_not_used(counts: RequestCounts) -> None:
    limit = SHARE * MOST_DRAWN * 4
    left = [counts.take("acme", limit).left for _ in range(200)]

    assert left == [limit - number for number in range(1, 201)]
    assert counts.standing("acme", limit).left == limit - 200


def test_none_may_be_none_at_all(counts: RequestCounts) -> None:
    standing = counts.take("acme", 0)

    assert (standing.is_allowed, standing.left, standing.more_in_s) == (False, 0, math.inf)
    assert counts.take("acme", 1).is_allowed, "a limit that was raised holds at once"
