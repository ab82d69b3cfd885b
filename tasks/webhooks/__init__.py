"""Webhooks sent from one io worker (tasks.notify).

dispatcher       takes from the outbox, records what became of each
receivers        how many posts at once for each receiver (dispatcher)
posting          one try, and the threads that post (dispatcher)
"""
