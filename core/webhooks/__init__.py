"""What a webhook says and how it is signed, after the Standard Webhooks specification; sends nothing.

events           names of the events (api, core.ledger)
keys             secrets and keys, from text to bytes (core.settings, signing)
urls             split_query, whole_url: what of a URL may be shown, and what is sealed
request_headers  headers a client wants sent along (api)
signing          headers_for, load_signing_key: the headers of one try (tasks.webhooks, api)
target           WebhookTarget: the receiver, as the ledger keeps it (core.records.job, api)
"""

from __future__ import annotations
