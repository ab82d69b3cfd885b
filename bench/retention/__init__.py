"""What the ledger's work costs beside millions of jobs that have ended.

compare     the bench: python -m bench.retention.compare
ended_rows  those jobs, made by PostgreSQL itself (compare)
"""
