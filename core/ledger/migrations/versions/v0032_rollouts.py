"""Rollouts: the fleet's processes with their versions, and orders to renew them, host after host."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

_IS_RUNNING = sa.text("state = 'running'")


def upgrade() -> None:
    op.create_table(
        "processes",
        sa.Column("id", sa.String(255), primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("program", sa.String(64), nullable=False),
        sa.Column("can_upgrade", sa.Boolean, nullable=False),
        sa.Column("renewal", sa.String(16)),
        sa.Column("started_at_ms", sa.BigInteger, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("processes_by_host", "processes", ["host"])
    op.create_table(
        "rollouts",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("version", sa.String(64)),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("at_once", sa.Integer, nullable=False),
        sa.Column("timeout_s", sa.Float, nullable=False),
        sa.Column("max_failures", sa.Float, nullable=False),
        sa.Column("watch_s", sa.Float, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("looked_at_ms", sa.BigInteger, nullable=False),
        sa.Column("ended_at_ms", sa.BigInteger),
    )
    op.create_index(
        "rollouts_running",
        "rollouts",
        ["state"],
        unique=True,
        sqlite_where=_IS_RUNNING,
        postgresql_where=_IS_RUNNING,
    )
    op.create_index("rollouts_newest", "rollouts", ["created_at_ms", "id"])
    op.create_table(
        "rollout_hosts",
        sa.Column("rollout", sa.String(36), sa.ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("expects", sa.JSON),
        sa.Column("command", sa.Text),
        sa.Column("began_at_ms", sa.BigInteger),
        sa.Column("moved_at_ms", sa.BigInteger),
        sa.Column("back_at_ms", sa.BigInteger),
        sa.Column("ended_at_ms", sa.BigInteger),
    )


def downgrade() -> None:
    op.drop_table("rollout_hosts")
    op.drop_table("rollouts")
    op.drop_table("processes")
