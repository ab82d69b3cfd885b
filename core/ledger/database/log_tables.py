"""The table of what ComfyUI printed while jobs ran."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Integer, String, Table, Text, false

from core.ledger.database.tables import metadata

# What ComfyUI printed while a job ran, in pieces of at most one a second; the oldest go when there are too many.
job_logs = Table(
    "job_logs",
    metadata,
    Column("job_id", String(36), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    # Rises with each piece: those of an attempt come after all of the one before.
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("attempt", Integer, nullable=False),
    # Whole lines, and how many bytes they are in UTF-8.
    Column("text", Text, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    # Lines before these are missing; nothing of this attempt follows.
    Column("is_cut", Boolean, nullable=False, server_default=false()),
    Column("is_last", Boolean, nullable=False, server_default=false()),
    Column("at_ms", BigInteger, nullable=False),
)
