"""What the API has the ledger look up, it looks up as a tenant: each such call says `of`, or `tenant`."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.unit.structure.test_rulers import TREES

#: Methods of parts of the ledger whose answer depends on who asks.
OWNED = {
    "jobs": {"get", "get_by_request_id", "graph", "error", "page", "states", "cancel"},
    "input_files": {"get", "by_hash", "named", "remove"},
    "outputs": {"asset", "output_at"},
    "deliveries": {"page", "get", "purge"},
    "requests": {"join"},
    "outlook": {"sizes"},
    "job_logs": {"read"},
}
#: Calls for a job that its caller has been let see, or has just made, by module and method.
SEEN = {
    ("api.service.jobs", "get"): 2,
}


def calls(module: str) -> Iterator[tuple[str, str, bool]]:
    """Yield part, method, and whether an owner is named, of each call of the ledger."""
    for node in ast.walk(TREES[module]):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        part = node.func.value
        if isinstance(part, ast.Attribute) and node.func.attr in OWNED.get(part.attr, set()):
            yield part.attr, node.func.attr, any(each.arg in ("of", "tenant") for each in node.keywords)


@pytest.mark.parametrize("module", sorted(name for name in TREES if name.startswith("api.")))
def test_the_owner_is_named(module: str) -> None:
    unsaid = [method for _, method, is_named in calls(module) if not is_named]
    for method in set(unsaid):
        assert unsaid.count(method) == SEEN.get((module, method), 0), f"{module}: {method}"


def test_there_are_such_calls() -> None:
    found = {(part, method) for name in TREES if name.startswith("api.") for part, method, _ in calls(name)}
    assert found == {(part, method) for part, methods in OWNED.items() for method in methods}
