"""What one graph has different from another, and the graph that comes of it again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.graph_differences import differences, with_differences
from core.texts.stored_json import json_text

BASE: dict[str, Any] = {
    "1": {"class_type": "A", "inputs": {"n": 1, "text": "x", "link": ["2", 0]}, "_meta": {"title": "t"}},
    "2": {"class_type": "B", "inputs": {}},
}


def changed(**inputs: Any) -> dict[str, Any]:
    return {**BASE, "1": {**BASE["1"], "inputs": {**BASE["1"]["inputs"], **inputs}}}


@pytest.mark.parametrize(
    "graph",
    [
        BASE,
        json.loads(json.dumps(BASE)),
        changed(n=2),
        changed(n=1.0),
        changed(n=True),
        changed(n=2**64 - 1),
        changed(n=2**70),
        changed(text='é\u2028"', link=["2", 1]),
        changed(extra=5),
        {**BASE, "1": {**BASE["1"], "_meta": {"title": "other"}}},
    ],
)
def test_the_graph_comes_back_as_it_was(graph: dict[str, Any]) -> None:
    text = json_text(differences(BASE, graph))
    assert json_text(with_differences(BASE, text)) == json_text(graph)


def test_only_what_differs_is_kept() -> None:
    assert differences(BASE, changed(n=2)) == [{"1": {"n": 2}}]
    assert differences(BASE, json.loads(json.dumps(BASE))) == [{}]
    assert BASE["1"]["inputs"]["n"] == 1
