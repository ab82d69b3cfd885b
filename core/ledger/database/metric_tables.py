"""The tables of what was counted, and of the processes that say how they are."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Float, String, Table

from core.ledger.database.tables import metadata

# What one transaction or one process has counted, until it is folded into the sums: rows are added and taken away, and
# nobody waits for one.
metric_entries = Table(
    "metric_entries",
    metadata,
    Column("id", String(36), primary_key=True),
    # {sample: amount}, see core/metrics/tally.py.
    Column("amounts", JSON, nullable=False),
)

# Written by the reconciler alone.
metric_sums = Table(
    "metric_sums",
    metadata,
    Column("sample", String(512), primary_key=True),
    Column("amount", Float, nullable=False),
)

# Processes of the API and io workers, and how they are.
metric_processes = Table(
    "metric_processes",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("host", String(255), nullable=False),
    # {name: number}
    Column("gauges", JSON, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)
