"""The jobs of a batch, page after page, while an answer is on its way: no more of them are in memory than a page."""

from __future__ import annotations

from collections.abc import Iterator

from api.http.time_limits import ledger_time_limit
from core.ledger import Ledger
from core.records.job import Job

#: Jobs that are read at once.
PAGE = 100


def children_of(ledger: Ledger, batch: str, *, of: str) -> Iterator[Job]:
    """Yield every job of a batch with its outputs, in the order of their places. Raises LedgerUnavailable."""
    after: int | None = None
    while True:
        with ledger_time_limit():
            page = ledger.batch_children.page(batch, of=of, limit=PAGE, after=after)
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1].batch_index
