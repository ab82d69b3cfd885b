"""A job in the words of each contract, for answers (api) and webhooks (ledger) alike.

comfy_v2         status, progress, error, outputs of Comfy API v2
comfy_v2_events  one event of Comfy API v2 as a webhook's body
batch_views      the counts of a batch
batch_events     what a webhook is told of a batch (core.ledger)
generate         the body of `/generate`
registry         the contracts by name: bodies and headers of their webhooks (ledger, webhooks)
"""
