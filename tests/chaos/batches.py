"""What became of the batches of a chaos run: each ended once, counts what its jobs did, and told so."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import select

from core.ledger import Ledger
from core.ledger.database.tables import deliveries, jobs
from core.ledger.webhooks.outbox_writer import DELIVERED, SENDING
from core.records.access import ALL_TENANTS
from core.records.batch import BATCH_COMPLETED, Batch
from tests.chaos.orders import LABEL, Order


def wrong_batches(
    ledger: Ledger, orders: Iterable[Order], posts: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Iterator[str]:
    """Yield what is wrong with the batches of the orders that were accepted.

    Parameters:
      posts: bodies of the webhooks that arrived, by the id of their event.
    """
    wanted: dict[str, list[Order]] = defaultdict(list)
    for order in orders:
        if order.batch:
            wanted[order.batch].append(order)
    found = {str(batch.label): batch for batch in ledger.batches.page(of=ALL_TENANTS, limit=10_000)}
    if found.keys() != wanted.keys():
        yield f"there are {sorted(found.keys() ^ wanted.keys())} in the ledger or with the clients alone"
    for name in sorted(found.keys() & wanted.keys()):
        for problem in _wrong_with(ledger, found[name], wanted[name], posts):
            yield f"{name} ({found[name].id}): {problem}"


def _wrong_with(
    ledger: Ledger, batch: Batch, orders: Sequence[Order], posts: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Iterator[str]:
    with ledger.database.read() as connection:
        children = connection.execute(select(jobs).where(jobs.c.batch == batch.id)).all()
        told = connection.execute(select(deliveries).where(deliveries.c.batch == batch.id)).all()
    counts = Counter(child.status for child in children)
    names = {child.metadata[LABEL]: child.tenant for child in children}
    if names != {order.name: batch.tenant for order in orders}:
        yield f"its jobs are {names}"
    if batch.completed_at_ms is None or batch.completions != 1:
        yield f"it was completed {batch.completions} times"
    if +Counter(batch.counts) != counts:
        yield f"it counts {dict(batch.counts)}, and its jobs are {dict(counts)}"
    for row in told:
        bodies = posts.get(row.id, ())
        # One whose sender died is sent again when its hold lapses.
        if row.event != BATCH_COMPLETED or row.state not in (DELIVERED, SENDING):
            yield f"{row.event} is {row.state}"
        if len(bodies) > row.tries or (row.state == DELIVERED and not bodies):
            yield f"it was told {len(bodies)} times in {row.tries} tries"
        for body in bodies:
            said = body["data"]["counts"]
            if +Counter(said) != counts:
                yield f"it told {said}"
    if len(told) != 1:
        yield f"{len(told)} webhook events"
