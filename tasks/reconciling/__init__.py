"""Steps of the reconciler that work through many rows (tasks.reconcile).

expiry           what is past its time, removed in small steps
repinning        waiting jobs judged again when the fleet has changed
"""
