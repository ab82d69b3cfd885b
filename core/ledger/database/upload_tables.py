"""The table of files that clients send straight into the bucket, until they are input files."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, String, Table, Text

from core.ledger.database.tables import metadata

direct_uploads = Table(
    "direct_uploads",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant", String(64), nullable=False, server_default="default"),
    # sending, checking, finished, refused
    Column("status", String(16), nullable=False),
    # As announced, and of each part; 0: it has none.
    Column("size_bytes", BigInteger, nullable=False),
    Column("part_bytes", BigInteger, nullable=False),
    # The bucket's word for an upload in parts.
    Column("multipart_id", Text),
    Column("created_at_ms", BigInteger, nullable=False),
    # What the client says of it when all is sent.
    Column("hash", String(80)),
    Column("name", Text),
    Column("content_type", String(255)),
    Column("lifetime_s", Float),
    # Until then somebody checks it.
    Column("claimed_until_ms", BigInteger, nullable=False),
    # The input file that came of it, or why none did.
    Column("file_id", String(36)),
    Column("is_new", Boolean),
    Column("error_code", String(64)),
    Column("error_message", Text),
    Index("direct_uploads_due", "status", "created_at_ms"),
)
