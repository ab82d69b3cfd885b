"""What the end of an attempt or of a job adds up to for metrics, from the entries that tell what it used.

Such an entry is written with the end itself, so that nothing more has to be: neither a row nor a round trip.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Row

from core.ledger.database.connections import Transaction
from core.ledger.metrics.bounded_labels import BoundedLabels
from core.ledger.metrics.sums import add_to_sums
from core.metrics.counted import (
    FILE_BYTES,
    GPU_SECONDS,
    JOB_DURATION,
    JOB_LOAD,
    JOB_RUN,
    JOB_STORE,
    JOB_WAIT,
    JOBS_ENDED,
)
from core.metrics.tally import Tally
from core.records.job import CANCELED, EXPIRED, FAILED, SUCCEEDED

_ENDS = (SUCCEEDED, FAILED, CANCELED, EXPIRED)


def count_entries(transaction: Transaction, entries: Iterable[Row[Any]]) -> None:
    """Add entries of usage to the sums of metrics."""
    labels = BoundedLabels.read(transaction.connection)
    tally = Tally()
    for entry in entries:
        _count(tally, entry, labels)
    labels.keep(transaction.connection)
    add_to_sums(transaction, tally.take())


def _count(tally: Tally, entry: Row[Any], labels: BoundedLabels) -> None:
    tenant, template = labels.of("tenant", entry.tenant), labels.of("template", entry.template)
    for status in _ENDS:
        # A correction takes back what was put down too often, which no counter can.
        if (ended := getattr(entry, status)) > 0:
            tally.add(JOBS_ENDED, status, template, tenant, amount=ended)
    _count_gpu(tally, entry, labels.of("gpu_kind", entry.gpu), template)
    for direction, size_bytes in (("in", entry.bytes_in), ("out", entry.bytes_out)):
        if size_bytes > 0:
            tally.add(FILE_BYTES, direction, amount=size_bytes)
    if entry.waited_ms is not None:
        tally.observe(JOB_WAIT, entry.waited_ms / 1000, tenant)
    if entry.stored_ms is not None:
        tally.observe(JOB_STORE, entry.stored_ms / 1000)
    if entry.total_ms is not None:
        tally.observe(JOB_DURATION, entry.total_ms / 1000, tenant)


def _count_gpu(tally: Tally, entry: Row[Any], gpu: str, template: str) -> None:
    """Count the time on a GPU. What was lost after it had been put down as run and loaded has been counted as that."""
    if entry.run_ms < 0 or entry.load_ms < 0:
        return
    for use, each_ms in (("run", entry.run_ms), ("load", entry.load_ms), ("lost", entry.lost_ms)):
        if each_ms > 0:
            tally.add(GPU_SECONDS, gpu, use, amount=each_ms / 1000)
    if entry.run_ms > 0:
        tally.observe(JOB_RUN, entry.run_ms / 1000, template)
    if entry.load_ms > 0:
        tally.observe(JOB_LOAD, entry.load_ms / 1000, template)
