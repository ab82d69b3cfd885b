"""What tenants used: GPU time, jobs by their ends, bytes; and what they have of what is limited.

attempts   what the end of an attempt puts down (core.ledger.transitions, core.ledger.requeue)
report     ledger.usage: entries folded into days, and sums over both (reconciler, API)
kept       the bytes that tenants keep now: one number for limits and reports (report, room)
room       ledger.room: what tenants have, where it is limited; refuses what would be more (API, reconciler)
gpu_seconds  what tenants used of GPUs today (room)
"""
