"""What the clients of a chaos run ask for: a list of jobs that a seed decides, each with the end it must come to."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from core.records.access import DEFAULT_TENANT
from tests.fleet import work

V2, GENERATE = "v2", "generate"
#: The label and the prefix of the request id under which an order is found again in the ledger.
LABEL = "chaos"
SIZE_PX = (64, 64)
#: Whose jobs they are.
TENANTS = (DEFAULT_TENANT, "acme", "zenith")
#: Jobs of a batch, at least and at most.
BATCH_SIZES = (3, 8)
#: How many jobs of a batch run at once, where it has such a limit.
MAX_RUNNING = 2


@dataclass(frozen=True, kw_only=True)
class Order:
    """One job that a client wants."""

    number: int
    contract: str
    seconds: float
    #: A node raises: the job must fail.
    is_bad: bool = False
    has_webhook: bool = False
    #: Seconds after its acceptance at which the client changes its mind.
    cancel_after_s: float | None = None
    tenant: str = DEFAULT_TENANT
    #: The name of the batch it is submitted with, if it is; orders of a batch follow each other.
    batch: str = ""

    @property
    def color(self) -> int:
        """The colour of its picture, like that of no other order: no cache does its work, no picture is mistaken."""
        return (self.number * 7919 + 1) % 2**24

    @property
    def name(self) -> str:
        """Idempotency key, label and request id."""
        return f"{LABEL}-{self.number}"

    def graph(self) -> dict[str, Any]:
        """The workflow, in API format."""
        graph = work(self.seconds, steps=5, seed=self.color)
        if self.is_bad:
            graph["2"] = {"class_type": "T_Err", "inputs": {"image": ["1", 0], "kind": "runtime"}}
        return graph


def make_orders(seed: int, count: int) -> list[Order]:
    """So many orders of several tenants, some of them in batches; the same for the same seed."""
    source = random.Random(f"orders-{seed}")
    orders = [_order(source, number) for number in range(count)]
    return list(_in_batches(source, orders))


def submissions(orders: Sequence[Order]) -> list[list[Order]]:
    """What is sent with one request each: an order, or all of a batch."""
    return [list(group) for _, group in itertools.groupby(orders, key=lambda order: order.batch or order.name)]


def plain_orders(count: int, *, seconds: float, first: int = 0) -> list[Order]:
    """Orders that shall all succeed."""
    return [Order(number=first + number, contract=V2, seconds=seconds) for number in range(count)]


def _order(source: random.Random, number: int) -> Order:
    contract = source.choices([V2, GENERATE], [0.65, 0.35])[0]
    return Order(
        number=number,
        contract=contract,
        seconds=round(source.uniform(0.05, 0.6), 3),
        is_bad=source.random() < 0.08,
        has_webhook=contract == GENERATE and source.random() < 0.6,
        cancel_after_s=source.uniform(0.0, 1.5) if source.random() < 0.12 else None,
        tenant=TENANTS[number % len(TENANTS)],
    )


def _in_batches(source: random.Random, orders: Sequence[Order]) -> Iterator[Order]:
    """Make batches of some that follow each other; about half of all are in one then."""
    left = iter(orders)
    while first := next(left, None):
        if source.random() < 0.85:
            yield first
            continue
        size = source.randint(*BATCH_SIZES)
        for order in (first, *itertools.islice(left, size - 1)):
            # Its jobs tell no webhook of their own.
            of_v2 = replace(order, contract=V2, has_webhook=False)
            yield replace(of_v2, batch=f"{LABEL}-batch-{first.number}", tenant=first.tenant)
