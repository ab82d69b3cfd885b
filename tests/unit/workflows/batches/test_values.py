"""Lists and ranges of what is varied: exact, counted before they are made, refused with their place."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import InvalidRequest
from workflows.batches.expand import combinations, read_over
from workflows.batches.values import read_values


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ([3, "a", 1.5, True], [3, "a", 1.5, True]),
        ("1..4", [1, 2, 3, 4]),
        ("4..1", [4, 3, 2, 1]),
        ("-1..1", [-1, 0, 1]),
        ("0..1..0.25", [0, 0.25, 0.5, 0.75, 1]),
        ("0..0.3..0.1", [0, 0.1, 0.2, 0.3]),
        ({"from": 1, "to": 9, "step": 4}, [1, 5, 9]),
        ({"from": 1, "to": 1e1, "step": 5}, [1, 6]),
        ({"from": 18446744073709551614, "to": 18446744073709551615}, [18446744073709551614, 18446744073709551615]),
        ("7..7", [7]),
    ],
)
def test_ranges_are_exact_and_include_both_ends(given: Any, values: list[Any]) -> None:
    found = read_values("over.x", given)
    assert found.first(found.count) == values
    assert [type(value) for value in found.first(found.count)] == [
        float if ".." in str(given) and "." in str(given).replace("..", "") else type(value) for value in values
    ]


@pytest.mark.parametrize(
    "given", ["", "a..b", "1..2..0", {}, {"from": 1, "to": 2, "by": 1}, 7, None, [], [float("nan")]]
)
def test_what_is_no_list_and_no_range_is_refused(given: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"over\.x"):
        read_values("over.x", given)


@pytest.mark.parametrize("given", [{"from": 0, "to": 1e19, "step": 1e-300}, {"from": 1, "to": 10**19}])
def test_a_range_that_explodes_is_counted_and_not_made(given: Any) -> None:
    values = read_over({"x": given})
    with pytest.raises(InvalidRequest, match="at most 10000"):
        combinations(["x"], values, "cross", at_most=10_000)
