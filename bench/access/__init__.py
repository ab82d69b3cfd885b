"""What keys and limits cost.

key_cost  a submission with a key of a tenant that has every limit, beside one of an open fleet
"""
