"""candidates that are measured again, with other seeds"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("candidates", sa.Column("confirms", sa.String(length=24), nullable=True))
    op.drop_index("candidates_by_key", "candidates")
    op.create_index("candidates_by_key", "candidates", ["job_id", "key", "signature"], unique=True)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
