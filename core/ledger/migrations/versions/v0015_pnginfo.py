"""What clients want in their files beside the prompt, such as the editor's workflow."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("extra_pnginfo", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "extra_pnginfo")
