"""The tables of what the fleet learned from its runs."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Integer, String, Table

from core.ledger.database.tables import metadata

durations = Table(
    "durations",
    metadata,
    # shape:<hash> or workflow:<name>
    Column("what", String(80), primary_key=True),
    # The kind of GPU, as its instance calls it.
    Column("gpu", String(255), primary_key=True),
    Column("average_s", Float, nullable=False),
    Column("seen", Integer, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
)

# Shapes that ran out of memory on a kind of GPU.
lessons = Table(
    "lessons",
    metadata,
    Column("shape", String(64), primary_key=True),
    # The kind of GPU, as in durations, and its memory as it says.
    Column("gpu", String(255), primary_key=True),
    Column("vram_bytes", BigInteger),
    Column("learned_at_ms", BigInteger, nullable=False),
    # When a job of this shape ran there after all; the row stays for a while, for those that wait elsewhere.
    Column("refuted_at_ms", BigInteger),
)
