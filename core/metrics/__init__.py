"""What the fleet counts, and how a process does so: names, buckets, amounts on their way into the ledger.

counted   every family that is counted, with its labels and buckets (core.ledger, api, tasks)
family    what a family is
tally     amounts by sample, for one transaction or one process
reporter  carries what a process has counted into the ledger, now and then (api, tasks)
"""
