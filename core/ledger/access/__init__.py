"""Who may ask: tenants, and their keys.

tenants  ledger.tenants: make, list, weigh, limit (API)
keys     ledger.keys: make, list, rotate, revoke, and those that open the API now (API)
sessions  ledger.sessions: keys that browsers keep, sealed (API)
owned    the condition that a row is a tenant's own (core.ledger)
"""
