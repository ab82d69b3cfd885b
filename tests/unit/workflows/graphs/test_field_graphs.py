"""What a real server accepts we accept, but for what is forbidden on purpose; what it surely refuses we refuse."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import InvalidWorkflow
from tests.field_graphs import FieldGraph, field_graphs, simulated_catalogue
from workflows.graphs.catalogue import CompiledCatalogue
from workflows.graphs.checks import cacheable_catalogue, check_graph

#: Accepted by ComfyUI, and not here: another job's output, and a graph of which only a part would run.
FORBIDDEN = {"load-output", "partial"}
#: Refused by ComfyUI for what its `/object_info` does not show for sure: the server is asked, and the job fails.
LEFT_TO_THE_SERVER = {
    "combo-bool-as-text",
    "combo-empty-list",
    "combo-int-as-text",
    "combo-link-new-from-string",
    "combo-link-old-from-combo",
    "combo-link-old-from-string",
    "combo-new-form-wrong",
    "combo-no-options",
    "combo-remote",
    "combo-slash-for-backslash",
    "dynamic-combo-out-of-range-010",
}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> CompiledCatalogue:
    return cacheable_catalogue(simulated_catalogue(tmp_path_factory.mktemp("simulator")))


def refusal(graph: dict[str, Any], catalogue: CompiledCatalogue) -> InvalidWorkflow | None:
    try:
        check_graph(graph, catalogue)
    except InvalidWorkflow as exc:
        return exc
    return None


@pytest.mark.parametrize("case", field_graphs(), ids=lambda case: case.name)
def test_verdicts(case: FieldGraph, catalogue: CompiledCatalogue) -> None:
    found = refusal(case.graph, catalogue)
    if case.name in FORBIDDEN or (case.server == "refuse" and case.name not in LEFT_TO_THE_SERVER):
        assert found is not None
    else:
        assert found is None, found


def test_every_exception_is_a_case() -> None:
    verdicts = {case.name: case.server for case in field_graphs()}
    assert {verdicts[name] for name in LEFT_TO_THE_SERVER} == {"refuse"}
    assert {verdicts[name] for name in FORBIDDEN} == {"accept", "partial"}
