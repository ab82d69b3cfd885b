"""What metrics cost.

scrape_cost  a scrape of a large fleet
"""
