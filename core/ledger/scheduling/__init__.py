"""The scheduling policy with the ledger under it: what it looks at is read here, and what it decides is written.

lines        lines of waiting jobs, and which of them have any
reach        which lines instances can run, and whose models they hold
learned      how long jobs run and models load
picture      the fleet at one moment, for the policy
choice       which job an instance takes, inside of its claim
turns        which turns are to be published
mending      lines made right after processes of an earlier version
queue_order  the order of jobs by priority and age, for lists and estimates
"""
