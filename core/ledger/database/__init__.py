"""The database beneath the ledger; nothing outside of core.ledger imports it.

connections    pool, transactions, errors in our words (all of core.ledger)
tables         the tables, for SQLite and PostgreSQL
access_tables  those of tenants and keys (core.ledger.access)
fleet_tables   those of what instances offer, and of what a fleet agrees on (catalogues, facts)
learned_tables  those of durations and out of memory (durations, core.ledger.scheduling)
model_tables   those of model files (core.ledger.models)
batch_tables   those of batches (core.ledger.batches)
graph_texts    the graphs of jobs, many of which share one (claims, jobs, pins)
rollout_tables  those of processes and rollouts (core.ledger.rollouts)
usage_tables   those of what was used, and of who did what (core.ledger.usage, core.ledger.audit)
metric_tables  those of what was counted (core.ledger.metrics)
metric_entries  what a transaction counts for metrics, written with it (connections)
usage_entries  what a transaction puts down as used, written with it (connections)
log_tables   that of what ComfyUI printed (job_logs)
user_tables  that of what users of the editor keep (user_files)
upload_tables  that of files on their way into the bucket (direct_uploads)
line_counts    how many jobs wait in each line, written with what moves them (connections)
batch_rows     those of batches as records (batch_end, core.ledger.batches)
kept_counts    how many bytes of each tenant are kept, written with what brings and removes files (connections)
rows           rows as records
error_map      what a database raises, as our errors (connections)
fork_guard     no fork while SQLite is open (connections)
group_commit   writes of several callers in one transaction (jobs)
write_lock     SQLite's write lock, in the order of those who wait (connections)
stored_fields  fields of records as columns (rows, core.ledger)
"""
