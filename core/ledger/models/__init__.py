"""Model files in the ledger: what there is to be fetched, and what became of it on each host.

manifest  the entries of operators (api, GPU workers, reconciler)
"""
