"""The steps from each version of the schema to the next, run by core.ledger.upgrade.

env              runs them on an open connection (Alembic)
versions/        the steps, in order
"""
