"""The database beneath the ledger; nothing outside of core.ledger imports it.

connections      pool, transactions, errors in our words (all of core.ledger)
tables           the tables, for SQLite and PostgreSQL
rows             rows as records
error_map        what a database raises, as our errors (connections)
fork_guard       no fork while SQLite is open (connections)
"""
