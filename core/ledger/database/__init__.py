"""The database beneath the ledger; nothing outside of core.ledger imports it.

connections    pool, transactions, errors in our words (all of core.ledger)
tables         the tables, for SQLite and PostgreSQL
access_tables  those of tenants and keys (core.ledger.access)
model_tables   those of model files (core.ledger.models)
upload_tables  that of files on their way into the bucket (direct_uploads)
line_counts    how many jobs wait in each line, written with what moves them (connections)
rows           rows as records
error_map      what a database raises, as our errors (connections)
fork_guard     no fork while SQLite is open (connections)
write_lock     SQLite's write lock, in the order of those who wait (connections)
stored_fields  fields of records as columns (rows, core.ledger)
"""
