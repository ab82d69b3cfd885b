"""Webhooks that are tried again: when, how it went each time, and for whom they are."""

from __future__ import annotations

from urllib.parse import urlsplit

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("deliveries_open", "deliveries")
    op.add_column("deliveries", sa.Column("contract", sa.String(16), nullable=False, server_default="generate"))
    op.add_column("deliveries", sa.Column("seq", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("deliveries", sa.Column("receiver", sa.String(255), nullable=False, server_default=""))
    op.add_column("deliveries", sa.Column("tries_before", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("deliveries", sa.Column("next_try_at_ms", sa.BigInteger(), nullable=True))
    op.create_index("deliveries_due", "deliveries", ["next_try_at_ms", "seq"])
    op.create_index("deliveries_newest", "deliveries", ["created_at_ms", "id"])
    op.create_index("deliveries_by_receiver", "deliveries", ["receiver", "next_try_at_ms"])
    op.create_table(
        "delivery_attempts",
        sa.Column("delivery_id", sa.String(36), sa.ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("duration_ms", sa.BigInteger(), nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
    )
    _convert()


def _convert() -> None:
    """What earlier versions have left: one try each, about the end of the job."""
    connection = op.get_bind()
    deliveries = sa.table(
        "deliveries",
        *(
            sa.column(name)
            for name in ("id", "job_id", "url", "receiver", "seq", "state", "event", "next_try_at_ms", "updated_at_ms")
        ),
    )
    jobs = sa.table("jobs", sa.column("id"), sa.column("last_seq"))
    last = sa.select(jobs.c.last_seq).where(jobs.c.id == deliveries.c.job_id).scalar_subquery()
    connection.execute(sa.update(deliveries).values(seq=last))
    is_open = deliveries.c.state.in_(["pending", "sending"])
    connection.execute(sa.update(deliveries).where(is_open).values(next_try_at_ms=deliveries.c.updated_at_ms))
    connection.execute(sa.update(deliveries).where(deliveries.c.state == "failed").values(state="dead"))
    connection.execute(sa.update(deliveries).where(deliveries.c.event == "job.succeeded").values(event="job.completed"))
    ports = {"http": 80, "https": 443}
    for row in connection.execute(sa.select(deliveries.c.id, deliveries.c.url)).all():
        parts = urlsplit(row.url)
        receiver = f"{parts.scheme}://{parts.hostname}:{parts.port or ports.get(parts.scheme)}"[:255]
        connection.execute(sa.update(deliveries).where(deliveries.c.id == row.id).values(receiver=receiver))


def downgrade() -> None:
    op.drop_table("delivery_attempts")
    for index in ("deliveries_by_receiver", "deliveries_newest", "deliveries_due"):
        op.drop_index(index, "deliveries")
    for column in ("next_try_at_ms", "tries_before", "receiver", "seq", "contract"):
        op.drop_column("deliveries", column)
    op.create_index("deliveries_open", "deliveries", ["state", "updated_at_ms"])
