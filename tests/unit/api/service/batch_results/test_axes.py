"""Where each job stands in a contact sheet."""

from __future__ import annotations

import itertools
from typing import Any

from api.service.batch_results.axes import MAX_CELLS, MAX_COLUMNS, pages_of
from core.ledger.batches.children import Child


def children(*over: dict[str, Any]) -> list[Child]:
    return [
        Child(index=index, job_id=f"j{index}", status="succeeded", varied=varied, label=None)
        for index, varied in enumerate(over)
    ]


def crossed(**over: Any) -> list[Child]:
    return children(*(dict(zip(over, values, strict=True)) for values in itertools.product(*over.values())))


def test_nothing_varied_is_numbered() -> None:
    [page] = pages_of(children({}, {}, {}))
    assert (page.columns, page.captioned, [len(band.cells) for band in page.bands]) == ((), (), [2, 1])


def test_one_thing_is_wrapped_with_captions() -> None:
    [page] = pages_of(crossed(seed=range(5), steps=[20]))
    assert page.captioned == ("seed",)
    assert [child.index for child in page.children] == [0, 1, 2, 3, 4]


def test_two_things_are_rows_and_columns() -> None:
    [page] = pages_of(crossed(cfg=[1, 2], sampler=["a", "b", "c"]))
    assert (page.row_name, page.column_name, page.columns) == ("sampler", "cfg", ("1", "2"))
    assert [(band.label, [child.index for child in band.cells if child]) for band in page.bands] == [
        ("a", [0, 3]),
        ("b", [1, 4]),
        ("c", [2, 5]),
    ]


def test_a_missing_one_leaves_a_hole() -> None:
    some = crossed(cfg=[1, 2], sampler=["a", "b"])
    [page] = pages_of([*some[:1], *some[2:]])
    assert [child and child.index for band in page.bands for child in band.cells] == [0, None, 2, 3]


def test_three_things_are_groups_with_one_heading_each() -> None:
    [page] = pages_of(crossed(steps=[10, 20], sampler=["a", "b"], cfg=[1, 2, 3]))
    assert (page.column_name, page.row_name) == ("cfg", "steps")
    assert [band.heading for band in page.bands] == ["sampler = a", "", "sampler = b", ""]


def test_pairs_and_doubles_are_wrapped() -> None:
    [pairs] = pages_of(children(*({"a": n, "b": n} for n in range(6))))
    assert pairs.captioned == ("a", "b")
    [doubles] = pages_of([*crossed(a=[1, 2], b=[1, 2]), *crossed(a=[1, 2], b=[1, 2])])
    assert doubles.captioned == ("a", "b")


def test_values_that_look_alike_are_not_put_into_one_cell() -> None:
    [page] = pages_of(crossed(a=[1, True, "1"], b=[0, 1]))
    assert page.captioned == ("a", "b")


def test_each_job_of_a_large_batch_is_on_one_page() -> None:
    for made in (crossed(seed=range(10_000)), crossed(a=range(100), b=range(50), c=[1, 2])):
        pages = pages_of(made)
        seen = [child.index for page in pages for child in page.children]
        assert sorted(seen) == [child.index for child in made]
        assert all(len(page.children) <= MAX_CELLS and page.width <= MAX_COLUMNS for page in pages)
        assert [page.number for page in pages] == list(range(1, len(pages) + 1))
