"""Tenants and keys; what is there belongs to the tenant `default`, and ids of clients are unique in each tenant."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_DEFAULT = "default"


def upgrade() -> None:
    tenants = op.create_table(
        "tenants",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("weight", sa.Float(), nullable=False, server_default="1"),
        sa.Column("used_s", sa.Float(), nullable=False, server_default="0"),
        sa.Column("used_at_ms", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
    )
    op.bulk_insert(tenants, [{"name": _DEFAULT, "created_at_ms": int(time.time() * 1000)}])
    op.create_table(
        "keys",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("tenant", sa.String(64), sa.ForeignKey("tenants.name", ondelete="CASCADE"), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("max_priority", sa.Integer(), nullable=True),
        sa.Column("templates", sa.JSON(), nullable=True),
        sa.Column("pools", sa.JSON(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("ends_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("last_used_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("last_used_by", sa.String(64), nullable=True),
    )
    op.create_index("keys_by_tenant", "keys", ["tenant"])
    op.create_table(
        "key_secrets",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("key_id", sa.String(36), sa.ForeignKey("keys.id", ondelete="CASCADE"), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("ends_at_ms", sa.BigInteger(), nullable=True),
    )
    op.create_index("key_secrets_by_key", "key_secrets", ["key_id"])
    op.add_column("jobs", sa.Column("tenant", sa.String(64), nullable=False, server_default=_DEFAULT))
    op.add_column("uploads", sa.Column("tenant", sa.String(64), nullable=False, server_default=_DEFAULT))
    op.add_column("direct_uploads", sa.Column("tenant", sa.String(64), nullable=False, server_default=_DEFAULT))
    # SQLite cannot drop the constraint that a request_id is unique in the whole fleet without making all jobs anew.
    op.add_column("jobs", sa.Column("own_request_id", sa.String(128), nullable=True))
    op.execute("UPDATE jobs SET own_request_id = request_id, request_id = NULL WHERE request_id IS NOT NULL")
    op.create_index("jobs_by_request", "jobs", ["own_request_id", "tenant"], unique=True)
    op.create_index("jobs_by_tenant", "jobs", ["tenant", "created_at_ms", "id"])
    _make_idempotency_keys(sa.Column("tenant", sa.String(64), primary_key=True, server_default=_DEFAULT))


def _make_idempotency_keys(*more: sa.Column[str]) -> None:
    """Make the table anew, with or without an owner, and put in what was there."""
    op.drop_index("idempotency_keys_age", "idempotency_keys")
    op.rename_table("idempotency_keys", "idempotency_keys_before")
    op.create_table(
        "idempotency_keys",
        *more,
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("job_id", sa.String(36), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
    )
    # On the way back no key may stand there twice.
    op.execute(
        "INSERT INTO idempotency_keys (key, job_id, created_at_ms) "
        "SELECT key, MIN(job_id), MIN(created_at_ms) FROM idempotency_keys_before GROUP BY key"
    )
    op.drop_table("idempotency_keys_before")
    op.create_index("idempotency_keys_age", "idempotency_keys", ["created_at_ms"])


def downgrade() -> None:
    _make_idempotency_keys()
    op.drop_index("jobs_by_tenant", "jobs")
    op.drop_index("jobs_by_request", "jobs")
    # Ids that several tenants have stay with the one of the oldest job.
    op.execute(
        "UPDATE jobs SET request_id = own_request_id WHERE own_request_id IS NOT NULL AND id = "
        "(SELECT other.id FROM jobs AS other WHERE other.own_request_id = jobs.own_request_id "
        "ORDER BY other.created_at_ms, other.id LIMIT 1)"
    )
    op.drop_column("jobs", "own_request_id")
    op.drop_column("direct_uploads", "tenant")
    op.drop_column("uploads", "tenant")
    op.drop_column("jobs", "tenant")
    op.drop_table("key_secrets")
    op.drop_table("keys")
    op.drop_table("tenants")
