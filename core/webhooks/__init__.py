"""What a webhook says and how it is signed, after the Standard Webhooks specification; nothing here sends anything.

core.webhooks.events     the names of the events
core.contracts.registry  contract_of                       (bodies, and headers beside the standard ones)
core.webhooks.keys       secrets and keys, from text to bytes
core.webhooks.urls       split_query, whole_url            (what of a URL may be shown, and what is sealed)
core.webhooks.signing    headers_for, load_signing_key     (the headers of one try)
core.webhooks.target     WebhookTarget                     (the receiver, as the ledger keeps it)
"""

from __future__ import annotations
