"""The tables of what was used, and of who did what."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, String, Table

from core.ledger.database.tables import metadata

#: What is summed up: milliseconds on GPUs, jobs by their ends, bytes.
AMOUNTS = ("run_ms", "load_ms", "lost_ms", "succeeded", "failed", "canceled", "expired", "bytes_in", "bytes_out")
#: How long it took, in milliseconds: NULL where the step tells nothing of that. Metrics are made of them.
DURATIONS = ("waited_ms", "stored_ms", "total_ms")
#: Whose it is; an empty text where there is none. The day counts from 1970, in UTC.
OWNER = ("day", "tenant", "key_id", "template", "gpu")


def _owner(*, is_key: bool) -> list[Column[Any]]:
    return [
        Column("day", Integer, primary_key=is_key, autoincrement=False, nullable=False),
        Column("tenant", String(64), primary_key=is_key, nullable=False),
        Column("key_id", String(36), primary_key=is_key, nullable=False),
        Column("template", String(64), primary_key=is_key, nullable=False),
        Column("gpu", String(255), primary_key=is_key, nullable=False),
    ]


def _amounts() -> list[Column[Any]]:
    return [Column(name, BigInteger, nullable=False, server_default="0") for name in AMOUNTS]


# One for each step of a job that used something, until it is folded into the sums of its day. It outlives its job.
usage_entries = Table(
    "usage_entries",
    metadata,
    # The job, and the number of the event that tells of the step; or a file that came in, and 0.
    Column("source", String(36), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    *_owner(is_key=False),
    *_amounts(),
    *[Column(name, BigInteger) for name in DURATIONS],
    Index("usage_entries_by_tenant", "tenant", "day"),
)

usage_days = Table(
    "usage_days",
    metadata,
    *_owner(is_key=True),
    *_amounts(),
    Index("usage_days_by_tenant", "tenant", "day"),
)

# Written and never changed; what is past its time is deleted.
audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at_ms", BigInteger, nullable=False),
    # NULL: no key, or one of the settings.
    Column("key_id", String(36)),
    # A key's name, or user@host.
    Column("who", String(255), nullable=False),
    Column("tenant", String(64)),
    Column("address", String(64)),
    Column("act", String(32), nullable=False),
    # What it was done to: an id or a name.
    Column("subject", String(255), nullable=False),
    Column("details", JSON, nullable=False),
    Index("audit_age", "at_ms"),
    Index("audit_by_act", "act", "id"),
    Index("audit_by_subject", "subject", "id"),
)
