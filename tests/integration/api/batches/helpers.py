"""Short ways to batches over HTTP."""

from __future__ import annotations

from typing import Any

from tests.integration.api_fixtures import Api
from tests.makers import GRAPH

BATCHES = "/api/v2/batches"


def submit_batch(api: Api, over: Any, *, key: str | None = None, **fields: Any) -> dict[str, Any]:
    """Submit a batch of the small graph, and return it."""
    api.worker.beat()
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = api.post(BATCHES, {"workflow": GRAPH, "over": over, **fields}, headers=headers)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def batch_of(api: Api, batch_id: str) -> dict[str, Any]:
    """A batch as it stands."""
    answer = api.get(f"{BATCHES}/{batch_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def children_of(api: Api, batch_id: str, **parameters: Any) -> list[dict[str, Any]]:
    """The jobs of a batch, all pages of them."""
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        asked = {**parameters, **({} if cursor is None else {"cursor": cursor})}
        answer = api.get(f"{BATCHES}/{batch_id}/jobs", params=asked)
        assert answer.status_code == 200, answer.text
        found += answer.json()["jobs"]
        cursor = answer.json()["next_cursor"]
        if cursor is None:
            return found
