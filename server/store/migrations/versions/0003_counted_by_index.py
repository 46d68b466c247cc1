"""candidates counted and ranked, and events found by their kind, without a look at every row"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("candidates_by_state", "candidates", ["job_id", "confirms", "state"])
    op.create_index("candidates_by_rank", "candidates", ["job_id", "confirms", "violation", "score"])
    op.drop_index("candidates_by_score", "candidates")
    op.create_index("events_by_kind", "events", ["job_id", "kind", "number"])


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
