"""Who may ask a server.

key_commands     keys: make, list, rotate, revoke
tenant_commands  tenants: make, list, weigh
"""
