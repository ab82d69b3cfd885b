"""Model files in the ledger: what there is to be fetched, and what became of it on each host.

copies    what hosts have of them (GPU workers, api, scheduling)
manifest  the entries of operators (api, GPU workers, reconciler)
speeds    how fast files come to hosts (GPU workers, scheduling)
"""
