"""The tables of tenants and their keys."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Float, ForeignKey, Index, Integer, String, Table

from core.ledger.database.tables import metadata

tenants = Table(
    "tenants",
    metadata,
    Column("name", String(64), primary_key=True),
    # Its share of a busy fleet.
    Column("weight", Float, nullable=False, server_default="1"),
    # GPU seconds of late, as of then: they decay, see core/scheduling/shares.py.
    Column("used_s", Float, nullable=False, server_default="0"),
    Column("used_at_ms", BigInteger, nullable=False, server_default="0"),
    # What it may have at most; NULL: the fleet's default, -1: no limit.
    Column("max_waiting", Integer),
    Column("max_running", Integer),
    Column("max_requests_per_minute", Integer),
    Column("max_kept_bytes", BigInteger),
    Column("max_gpu_s_per_day", Float),
    Column("created_at_ms", BigInteger, nullable=False),
)

# What tenants keep, see `kept_counts`. Apart from `tenants`, whose rows claims lock.
tenant_files = Table(
    "tenant_files",
    metadata,
    Column("tenant", String(64), primary_key=True),
    # What counts, and why so: core/ledger/usage/kept.py.
    Column("kept_bytes", BigInteger, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant", String(64), ForeignKey("tenants.name", ondelete="CASCADE"), nullable=False),
    Column("name", String(64), nullable=False),
    Column("scopes", JSON, nullable=False),
    # What it may ask for; NULL: anything.
    Column("max_priority", Integer),
    Column("templates", JSON(none_as_null=True)),
    Column("pools", JSON(none_as_null=True)),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("ends_at_ms", BigInteger),
    # The row stays: a fleet that has had a key asks for one ever after.
    Column("revoked_at_ms", BigInteger),
    Column("last_used_at_ms", BigInteger),
    Column("last_used_by", String(64)),
    Index("keys_by_tenant", "tenant"),
)

key_secrets = Table(
    "key_secrets",
    metadata,
    # SHA-256 of the secret, which has 256 random bits: there is nothing to be found by trying, so it need not be slow.
    Column("digest", String(64), primary_key=True),
    Column("key_id", String(36), ForeignKey("keys.id", ondelete="CASCADE"), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    # Of the old one while the key is rotated.
    Column("ends_at_ms", BigInteger),
    Index("key_secrets_by_key", "key_id"),
)

# By which a client's submission is known again.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("tenant", String(64), primary_key=True, server_default="default"),
    Column("key", String(255), primary_key=True),
    Column("job_id", String(36), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Index("idempotency_keys_age", "created_at_ms"),
)
