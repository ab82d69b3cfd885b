"""What an idle GPU takes next, and what comes of that: pure functions, without a database, a clock or a network.

lines      what they look at: waiting jobs in lines, a GPU that asks, the fleet around it
policy     the decision, with its reason
shares     whose turn it is among tenants
residency  which model files an instance is likely to hold

The ledger feeds them (`core.ledger.scheduling`), the bench simulates with them (`bench.policy`).
"""
