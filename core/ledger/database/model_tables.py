"""The tables of model files: the manifest, and what hosts have of it."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Float, LargeBinary, String, Table, Text

from core.ledger.database.tables import metadata

# Model files that the fleet knows how to fetch, see core/records/model_file.py.
model_files = Table(
    "model_files",
    metadata,
    Column("path", String(512), primary_key=True),
    Column("source", Text, nullable=False),
    # NULL where its hub says it.
    Column("sha256", String(64)),
    Column("size_bytes", BigInteger),
    Column("tags", JSON, nullable=False),
    Column("pools", JSON, nullable=False),
    # The name of one, never the token.
    Column("token", String(64)),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
)

# What their sources are asked with, sealed; see core/ledger/models/tokens.py.
model_tokens = Table(
    "model_tokens",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
)

# What hosts have of them, see ModelCopy there.
model_copies = Table(
    "model_copies",
    metadata,
    Column("host", String(255), primary_key=True),
    Column("path", String(512), primary_key=True),
    # fetching, ready, failed
    Column("state", String(16), nullable=False),
    Column("size_bytes", BigInteger),
    Column("done_bytes", BigInteger, nullable=False),
    Column("bytes_s", Float, nullable=False),
    Column("error", Text),
    Column("updated_at_ms", BigInteger, nullable=False),
)
