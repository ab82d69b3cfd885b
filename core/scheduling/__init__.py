"""What an idle GPU takes next, and what comes of that: pure functions, without a database, a clock or a network.

lines      what they look at: waiting jobs in lines, a GPU that asks, the fleet around it
policy     the decision, with its reason
picture    the whole fleet at one moment: its GPUs, and all that waits
ahead      the policy run forward from such a picture, as far as is worth while
forecast   what comes of that for a waiting job: its position, and when it begins
next_jobs  what comes of it for a GPU: what that takes next, and why
reasons    why a job waits, as a record and in a sentence
gates      what lets only so many jobs of a tenant or a batch run at once
levels     what waits, arranged so that a decision looks at few lines
holding    how many GPUs hold each model set, kept up to date
shares     whose turn it is among tenants
scaling    how many GPUs each pool needs, so that every job begins in time
steadiness  how many it wants: up at once, down after a while
leaving    which hosts it gives back
residency  which model files an instance is likely to hold

The ledger feeds them (`core.ledger.scheduling`), the bench simulates with them (`bench.policy`).
"""
