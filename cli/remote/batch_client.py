"""The command line's side of batches: submit, look, act, list, and the jobs of one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias
from urllib.parse import quote

from cli.remote.answers import Job, ServerUnreachable
from cli.remote.client import GIVE_UP_AFTER_S, PAGE, POLL_S, Client

#: A batch as the API answers it: `id`, `status`, `counts`, `progress`, ...
Batch: TypeAlias = dict[str, Any]

COMPLETED = "completed"
_PATH = "/api/v2/batches"
#: A server checks ten thousand jobs before it answers.
SUBMIT_S = 120.0


class BatchClient:
    """One server's batches. Every method raises `ServerUnreachable` or `RequestRefused`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def submit(self, body: Mapping[str, Any], *, key: str) -> Batch:
        """Submit a batch. Parameters: key - by which it is the same batch when it is submitted again."""
        return _batch(self._client.post(_PATH, body, has_key=True, key=key, timeout_s=SUBMIT_S))

    def get(self, batch_id: str) -> Batch:
        """The batch as it stands."""
        return _batch(self._client.get(f"{_PATH}/{quote(batch_id, safe='')}"))

    def act(self, batch_id: str, action: str) -> Batch:
        """Cancel, pause, resume or retry a batch; returns it as it stands then. Safe to repeat."""
        return _batch(self._client.ask("POST", f"{_PATH}/{quote(batch_id, safe='')}/{action}"))

    def page(self, *, limit: int, **filters: str | None) -> list[Batch]:
        """The newest batches first, page after page up to `limit`. Parameters: filters - `label`, `status`."""
        found: list[Batch] = []
        for batch in self._pages(_PATH, "batches", limit=limit, **filters):
            found.append(_batch(batch))
            if len(found) == limit:
                break
        return found

    def jobs(self, batch_id: str, *, status: str | None = None) -> Iterator[Job]:
        """The jobs of a batch, by their places. Parameters: status - only these."""
        return self._pages(f"{_PATH}/{quote(batch_id, safe='')}/jobs", "jobs", limit=PAGE, status=status)

    def follow(self, batch_id: str, on_change: Callable[[Batch], None]) -> Batch:
        """Report the batch about once a second until it is completed, and return it as it ended."""
        silent_since: float | None = None
        while True:
            try:
                batch = self.get(batch_id)
            except ServerUnreachable:
                # The server may be restarting: the batch goes on without it.
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > GIVE_UP_AFTER_S:
                    raise
                time.sleep(POLL_S)
                continue
            silent_since = None
            on_change(batch)
            if batch["status"] == COMPLETED:
                return batch
            time.sleep(POLL_S)

    def _pages(self, path: str, name: str, *, limit: int, **filters: str | None) -> Iterator[dict[str, Any]]:
        cursor: str | None = None
        while True:
            parameters = {**filters, "limit": min(PAGE, limit), "cursor": cursor}
            page = self._client.ask("GET", path, parameters=parameters)
            listed = page.get(name)
            if not isinstance(listed, list):
                raise ServerUnreachable("The server answered something that is no list: is it a Comfyline server?")
            yield from listed
            cursor = page.get("next_cursor")
            if cursor is None:
                return


def _batch(answer: Mapping[str, Any]) -> Batch:
    if not (isinstance(answer.get("id"), str) and isinstance(answer.get("counts"), dict)):
        raise ServerUnreachable("The server answered something that is no batch: is it a Comfyline server?")
    return dict(answer)
