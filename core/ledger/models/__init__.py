"""Model files in the ledger: what there is to be fetched, and what became of it on each host.

copies    what hosts have of them (GPU workers, api, scheduling)
manifest  the entries of operators (api, GPU workers, reconciler)
tokens    what sources are asked with, sealed (api, GPU workers)
speeds    how fast files come to hosts (GPU workers, scheduling)
yields    which of them GPUs begin no more jobs for, so that others find room (GPU workers, scheduling)
"""
