"""What a request with an id of its client's own looked like, how many callers want its job, and uploads by name."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("request_mark", sa.String(80), nullable=True))
    op.add_column("jobs", sa.Column("callers", sa.Integer(), nullable=False, server_default="1"))
    op.create_index("uploads_by_name", "uploads", ["name"])


def downgrade() -> None:
    op.drop_index("uploads_by_name", "uploads")
    op.drop_column("jobs", "callers")
    op.drop_column("jobs", "request_mark")
