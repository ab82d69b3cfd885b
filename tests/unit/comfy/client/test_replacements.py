"""What a server says of classes that are gone."""

from __future__ import annotations

from typing import Any

import pytest

from comfy.client.replacements import Replacement, parse_replacements


def entry(new: Any = "New", **more: Any) -> dict[str, Any]:
    return {"new_node_id": new, "old_node_id": "Old", "input_mapping": None, "output_mapping": None, **more}


def test_the_first_of_several_counts_and_all_are_kept() -> None:
    told = [entry(output_mapping=[{"old_idx": 0, "new_idx": 1}]), entry("Another")]
    assert parse_replacements({"Old": told}) == {"Old": Replacement(new_class="New", slots={0: 1}, told=tuple(told))}


@pytest.mark.parametrize("several", [None, [], {}, "New", ["New"], [entry(None)], [entry(7)], [{}]])
def test_what_is_no_replacement_is_left_out(several: Any) -> None:
    assert parse_replacements({"Old": several}) == {}


@pytest.mark.parametrize("mapping", [None, [], "odd", [None], [{"old_idx": "0", "new_idx": 1}], [{"old_idx": 0}]])
def test_outputs_that_nobody_moves_stay_where_they_are(mapping: Any) -> None:
    (found,) = parse_replacements({"Old": [entry(output_mapping=mapping)]}).values()
    assert found.outputs(["IMAGE", "MASK"]) == ["IMAGE", "MASK"]
    assert found.outputs(None) is None


@pytest.mark.parametrize(
    ("slots", "outputs"),
    [
        ({0: 1, 1: 0}, ["MASK", "IMAGE"]),
        ({0: 1}, ["MASK", "MASK"]),
        ({3: 0}, ["IMAGE", "MASK", "*", "IMAGE"]),
        ({0: 5}, ["*", "MASK"]),
    ],
)
def test_outputs_have_the_types_of_those_they_stand_for(slots: dict[int, int], outputs: list[str]) -> None:
    assert Replacement(new_class="New", slots=slots).outputs(["IMAGE", "MASK"]) == outputs
