"""Who may ask a server, what they used, and who did what.

key_commands     keys: make, list, rotate, revoke
tenant_commands  tenants: make, list, weigh, limit; and what one's own may have
limit_options    limits as options, and in tables (tenant_commands)
usage_commands   what was used, and what it costs
audit_commands   who did what
"""
