"""Webhooks in the ledger: written with the change that they tell of, kept until they have arrived.

outbox_writer   which webhooks a change brings (core.ledger)
outbox          take, record, put off (tasks.webhooks)
deliveries      list, send again, delete (api)
retry_schedule  when the next try is (outbox)
"""
