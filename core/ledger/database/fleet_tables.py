"""The tables of what instances offer, and of what a whole fleet agrees on."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, LargeBinary, String, Table, Text

from core.ledger.database.tables import metadata

catalogues = Table(
    "catalogues",
    metadata,
    # SHA-256 of the canonical /object_info, so that equal instances share one row.
    Column("digest", String(64), primary_key=True),
    # zlib-compressed JSON: the real one is several megabytes of repeated words.
    Column("object_info", LargeBinary, nullable=False),
    # The same of {name: bytes} of the model files; NULL where instances do not tell.
    Column("model_sizes", LargeBinary),
    Column("created_at_ms", BigInteger, nullable=False),
)

# What a whole fleet agrees on, see core/ledger/facts.py.
facts = Table(
    "facts",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
