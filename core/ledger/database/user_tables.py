"""The table of what users of ComfyUI's editor keep on the server: workflows and settings."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, LargeBinary, String, Table

from core.ledger.database.tables import metadata

user_files = Table(
    "user_files",
    metadata,
    Column("tenant", String(64), primary_key=True),
    # Relative, its parts joined by slashes.
    Column("path", String(255), primary_key=True),
    # zlib-compressed, and how many bytes it was.
    Column("content", LargeBinary, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("modified_at_ms", BigInteger, nullable=False),
)
